"""What a port may carry, and how a declaration says it (Istio's protocol selection).

Three kinds: routed by request (HTTP), routed by connection (bytes; where they begin
with a ClientHello its server name can route), and AUTO, where the first bytes decide.
A declaration says it by ``protocol``, by Kubernetes' ``appProtocol``, or by the prefix
of the port's name: ``grpc``, ``grpc-api``.  Nothing is guessed from a port's number.
"""

from __future__ import annotations

from typing import Literal

Accepts = Literal["HTTP", "TCP", "TLS", "AUTO"]

HTTP_PROTOCOLS = frozenset(("HTTP", "HTTP2", "GRPC", "GRPC-WEB"))
"""Protocols whose requests are routed one by one."""
HTTP2_PROTOCOLS = frozenset(("HTTP2", "GRPC"))
"""Those of them that an application expects as HTTP/2; it need not speak HTTP/1.1."""
TLS_PROTOCOLS = frozenset(("TLS", "HTTPS"))
"""Bytes to us that begin with a ClientHello, whose server name can route."""
TCP_PROTOCOLS = TLS_PROTOCOLS | frozenset(("TCP", "MONGO", "MYSQL", "REDIS"))
"""Protocols whose connections are routed whole."""
AUTO = "AUTO"
"""Ours: the first bytes say whether it is HTTP; a service must ask for it."""
PROTOCOLS = HTTP_PROTOCOLS | TCP_PROTOCOLS | {AUTO}

APP_PROTOCOLS = {
    "kubernetes.io/h2c": "HTTP2",
    "kubernetes.io/ws": "HTTP",
    "kubernetes.io/wss": "HTTPS",
}
"""Kubernetes' own values of ``appProtocol``; Istio's are the protocols' names."""

NOT_HTTP = {25: "TCP", 3306: "MYSQL", 5432: "TCP", 6379: "REDIS", 27017: "MONGO"}
"""Port numbers that are hardly ever HTTP: worth a warning where nothing is declared."""


def is_http(protocol: str) -> bool:
    """Requests to such a port may be routed as HTTP (AUTO: if they look like it)."""
    return protocol in HTTP_PROTOCOLS or protocol == AUTO


def is_http2(protocol: str) -> bool:
    """The application behind such a port expects HTTP/2."""
    return protocol in HTTP2_PROTOCOLS


def is_tcp(protocol: str) -> bool:
    """Connections to such a port may be routed whole (AUTO: unless they look like HTTP)."""
    return protocol in TCP_PROTOCOLS or protocol == AUTO


def is_tls(protocol: str) -> bool:
    """Connections to such a port begin with a ClientHello."""
    return protocol in TLS_PROTOCOLS


def of_name(name: str) -> str | None:
    """The protocol that a port's name declares: ``<protocol>[-<anything>]``.

    ⚠ ``grpc-web`` is tried before ``grpc``, whose suffix it else would be.
    """
    upper = name.upper()
    prefix = "GRPC-WEB" if upper.startswith("GRPC-WEB") else upper.partition("-")[0]
    return prefix if prefix in PROTOCOLS and prefix != AUTO else None


def of_app_protocol(value: str) -> str | None:
    """The protocol that an ``appProtocol`` means; None for one that nobody defined."""
    return APP_PROTOCOLS.get(value.lower()) or of_name(value)


def contradicts(name: str, protocol: str) -> bool:
    """A port's name and its protocol cannot both be right.

    ``http`` goes with all of HTTP and ``tcp`` with all that is bytes.
    """
    said = of_name(name)
    if said is None or protocol == AUTO or said == protocol:
        return False
    if is_http(said) != is_http(protocol):
        return True
    return is_http2(said) and not is_http2(protocol)


def normal(protocol: str) -> str:
    """A protocol as some other release or registry writes it; an unknown one is bytes."""
    upper = protocol.upper()
    return upper if upper in PROTOCOLS else "TCP"


def accepts(protocol: str) -> Accepts:
    """What a listener for such a port takes."""
    if protocol == AUTO:
        return "AUTO"
    if is_http(protocol):
        return "HTTP"
    return "TLS" if is_tls(protocol) else "TCP"
