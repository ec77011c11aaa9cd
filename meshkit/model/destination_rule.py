"""DestinationRule: subsets, and the policy towards a host."""

from __future__ import annotations

from typing import Any

from meshkit.model import traffic_later
from meshkit.model.common import EXPORT_TO, WORKLOAD_SELECTOR, Draft
from meshkit.model.decode import Field, ListOf, Message, Parts, later
from meshkit.model.dns import LABEL, LABELS, WILDCARD_HOST
from meshkit.model.http_route import PORT_SELECTOR
from meshkit.model.resources import DestinationRule, Subset, TrafficPolicy
from meshkit.model.scalars import BOOL, STRING, Enum

_SIMPLE = Enum(
    {
        "UNSPECIFIED": None,
        "LEAST_REQUEST": "LEAST_REQUEST",
        "ROUND_ROBIN": "ROUND_ROBIN",
        "RANDOM": "RANDOM",
        "LEAST_CONN": "LEAST_REQUEST",
    },
    later={"PASSTHROUGH": "leave loadBalancer out"},
    deprecated={"LEAST_CONN": "LEAST_REQUEST"},
)
_FILES = "certificates between hosts are the mesh's own: remove it"


def _client_tls(parts: Parts) -> Any:
    """⚠ A block without a mode means DISABLE: plaintext."""
    if not parts.given("mode"):
        parts.spot.warn(
            "a tls block without mode means DISABLE: plaintext",
            "write mode: ISTIO_MUTUAL, or mode: DISABLE if that is meant",
        )
    return parts.get("mode", "DISABLE")


CLIENT_TLS = Message(
    "ClientTLSSettings",
    (
        Field(
            "mode",
            Enum(
                {"DISABLE": "DISABLE", "ISTIO_MUTUAL": "ISTIO_MUTUAL"},
                later={"SIMPLE": "", "MUTUAL": "write ISTIO_MUTUAL within the mesh"},
            ),
            note="absent in a given block: DISABLE; no block: automatic mTLS",
        ),
        later("clientCertificate", STRING, _FILES),
        later("privateKey", STRING, _FILES),
        later("caCertificates", STRING, _FILES),
        later("credentialName", STRING, _FILES),
        later("subjectAltNames", ListOf(STRING), "the policy server says who may serve"),
        later("sni", STRING),
        later("insecureSkipVerify", BOOL, "remove it: peers are always verified"),
        later("caCrl", STRING),
    ),
    _client_tls,
)

LOAD_BALANCER = Message(
    "LoadBalancerSettings",
    (
        Field("simple", _SIMPLE, note="default LEAST_REQUEST, power of two choices"),
        later("consistentHash", traffic_later.CONSISTENT_HASH, "use simple: LEAST_REQUEST"),
        later("localityLbSetting", traffic_later.LOCALITY),
        later("warmupDurationSecs", STRING, "", "deprecated by Istio"),
        later("warmup", traffic_later.WARMUP),
    ),
    lambda parts: parts.get("simple"),
)

_POLICY = (
    Field("loadBalancer", LOAD_BALANCER),
    later("connectionPool", traffic_later.CONNECTION_POOL),
    later("outlierDetection", traffic_later.OUTLIER_DETECTION),
    Field("tls", CLIENT_TLS, note="absent: automatic mTLS"),
)

PORT_TRAFFIC_POLICY = Message(
    "PortTrafficPolicy",
    (later("port", PORT_SELECTOR), *(later(field.name, field.type) for field in _POLICY)),
)

TRAFFIC_POLICY = Message(
    "TrafficPolicy",
    (
        *_POLICY,
        later("portLevelSettings", ListOf(PORT_TRAFFIC_POLICY)),
        later("tunnel", traffic_later.TUNNEL),
        later("proxyProtocol", traffic_later.PROXY_PROTOCOL),
        later("retryBudget", traffic_later.RETRY_BUDGET),
    ),
    lambda parts: TrafficPolicy(parts.get("loadBalancer"), parts.get("tls")),
)


def _subset(parts: Parts) -> Subset:
    labels = parts.get("labels", {})
    if not labels and not parts.given("labels"):
        parts.spot.warn(
            "a subset without labels holds every endpoint",
            "give labels: such as version: v1",
        )
    policy = parts.get("trafficPolicy", TrafficPolicy())
    return Subset(parts.get("name"), labels, policy, parts.spot.position)


SUBSET = Message(
    "Subset",
    (
        Field("name", LABEL, required=True),
        Field("labels", LABELS, note="an endpoint belongs if it has all of them"),
        Field("trafficPolicy", TRAFFIC_POLICY, note="acts only where a route names the subset"),
    ),
    _subset,
)


def _build(parts: Parts) -> Draft:
    subsets: tuple[Subset, ...] = parts.get("subsets", ())
    names: set[str] = set()
    for subset in subsets:
        if subset.name in names:
            parts.at("subsets").error(
                f'the subset "{subset.name}" is given twice',
                "rename or remove one",
                "duplicate",
                subset.position,
            )
        names.add(subset.name)
    host, policy = parts.get("host"), parts.get("trafficPolicy", TrafficPolicy())
    return lambda meta: DestinationRule(meta, host, policy, subsets)


DESTINATION_RULE = Message(
    "DestinationRule",
    (
        Field("host", WILDCARD_HOST, required=True, note="short: the rule's namespace"),
        Field("trafficPolicy", TRAFFIC_POLICY),
        Field("subsets", ListOf(SUBSET)),
        EXPORT_TO,
        later("workloadSelector", WORKLOAD_SELECTOR),
    ),
    _build,
)
