"""Messages of DestinationRule that do not run in this release, field by field."""

from __future__ import annotations

from meshkit.model.decode import ListOf, MapOf, Message, later
from meshkit.model.scalars import BOOL, DURATION, INT, NUMBER, PORT, STRING, enum

_DEPRECATED = "deprecated by Istio"

_COOKIE = Message(
    "HTTPCookie",
    (
        later("name", STRING),
        later("path", STRING),
        later("ttl", DURATION),
        later(
            "attributes",
            ListOf(Message("Attribute", (later("name", STRING), later("value", STRING)))),
        ),
    ),
)

CONSISTENT_HASH = Message(
    "ConsistentHashLB",
    (
        later("httpHeaderName", STRING),
        later("httpCookie", _COOKIE),
        later("useSourceIp", BOOL),
        later("httpQueryParameterName", STRING),
        later("ringHash", Message("RingHash", (later("minimumRingSize", INT),))),
        later("maglev", Message("MagLev", (later("tableSize", INT),))),
        later("minimumRingSize", INT, "", _DEPRECATED),
    ),
)

LOCALITY = Message(
    "LocalityLoadBalancerSetting",
    (
        later(
            "distribute",
            ListOf(Message("Distribute", (later("from", STRING), later("to", MapOf(INT))))),
        ),
        later(
            "failover",
            ListOf(Message("Failover", (later("from", STRING), later("to", STRING)))),
        ),
        later("failoverPriority", ListOf(STRING)),
        later("enabled", BOOL),
    ),
)

WARMUP = Message(
    "WarmupConfiguration",
    (later("duration", DURATION), later("minimumPercent", NUMBER), later("aggression", NUMBER)),
)

_KEEPALIVE = Message(
    "TcpKeepalive",
    (later("probes", INT), later("time", DURATION), later("interval", DURATION)),
)

CONNECTION_POOL = Message(
    "ConnectionPoolSettings",
    (
        later(
            "tcp",
            Message(
                "TCPSettings",
                (
                    later("maxConnections", INT),
                    later("connectTimeout", DURATION, "it is 10s"),
                    later("tcpKeepalive", _KEEPALIVE),
                    later("maxConnectionDuration", DURATION),
                    later("idleTimeout", DURATION),
                ),
            ),
        ),
        later(
            "http",
            Message(
                "HTTPSettings",
                (
                    later("http1MaxPendingRequests", INT),
                    later("http2MaxRequests", INT),
                    later("maxRequestsPerConnection", INT),
                    later("maxRetries", INT),
                    later("idleTimeout", DURATION),
                    later("h2UpgradePolicy", enum("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE")),
                    later("useClientProtocol", BOOL),
                    later("maxConcurrentStreams", INT),
                ),
            ),
        ),
    ),
)

OUTLIER_DETECTION = Message(
    "OutlierDetection",
    (
        later("consecutiveErrors", INT, "", _DEPRECATED),
        later("splitExternalLocalOriginErrors", BOOL),
        later("consecutiveLocalOriginFailures", INT),
        later("consecutiveGatewayErrors", INT),
        later("consecutive5xxErrors", INT),
        later("interval", DURATION),
        later("baseEjectionTime", DURATION),
        later("maxEjectionPercent", INT),
        later("minHealthPercent", INT),
    ),
)

TUNNEL = Message(
    "TunnelSettings",
    (
        later("protocol", enum("CONNECT", "POST")),
        later("targetHost", STRING),
        later("targetPort", PORT),
    ),
)

PROXY_PROTOCOL = Message("ProxyProtocol", (later("version", enum("V1", "V2")),))

RETRY_BUDGET = Message("RetryBudget", (later("percent", NUMBER), later("minRetryConcurrency", INT)))
