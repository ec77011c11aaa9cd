"""Gateway: the listeners of the edge."""

from __future__ import annotations

from typing import Any

from meshkit.model.common import Draft
from meshkit.model.decode import INVALID, Field, ListOf, Message, Parts, Spot, later
from meshkit.model.dns import IP, LABELS, is_host, is_label
from meshkit.model.ports import PROTOCOL
from meshkit.model.protocols import is_http, is_tls
from meshkit.model.resources import Gateway, Port, Server, ServerTLS
from meshkit.model.scalars import BOOL, PORT, STRING, Enum, String

_KUBERNETES = "give serverCertificate and privateKey, files on the gateway's host"
_SIMPLE = "write mode: SIMPLE with serverCertificate and privateKey, or PASSTHROUGH"

SERVER_PORT = Message(
    "Port",
    (
        Field("number", PORT, required=True),
        Field("protocol", PROTOCOL, required=True),
        Field("name", STRING, required=True),
        later("targetPort", PORT, "", "deprecated by Istio"),
    ),
    lambda parts: Port(parts.get("number"), parts.get("protocol"), parts.get("name")),
)

_OLD_TLS = "versions below 1.2 are never offered: write TLSV1_2"
_MODES = Enum(
    {"SIMPLE": "SIMPLE", "PASSTHROUGH": "PASSTHROUGH"},
    later=dict.fromkeys(("MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL", "AUTO_PASSTHROUGH"), _SIMPLE),
)
_CERTIFICATE = Message(
    "TLSCertificate",
    (
        later("serverCertificate", STRING),
        later("privateKey", STRING),
        later("caCertificates", STRING),
    ),
)

SERVER_TLS = Message(
    "ServerTLSSettings",
    (
        Field("httpsRedirect", BOOL, note="301 to https; on HTTP servers"),
        Field("mode", _MODES, note="absent means PASSTHROUGH"),
        Field("serverCertificate", STRING, note="PEM file on the gateway's host"),
        Field("privateKey", STRING, note="PEM file on the gateway's host"),
        later("caCertificates", STRING),
        later("caCrl", STRING),
        later("credentialName", STRING, _KUBERNETES),
        later("credentialNames", ListOf(STRING), _KUBERNETES),
        later("caCertCredentialName", STRING),
        later("tlsCertificates", ListOf(_CERTIFICATE), "give one certificate per server"),
        later("subjectAltNames", ListOf(STRING)),
        later("verifyCertificateSpki", ListOf(STRING)),
        later("verifyCertificateHash", ListOf(STRING)),
        Field(
            "minProtocolVersion",
            Enum(
                {"TLS_AUTO": "TLSV1_2", "TLSV1_2": "TLSV1_2", "TLSV1_3": "TLSV1_3"},
                later={"TLSV1_0": _OLD_TLS, "TLSV1_1": _OLD_TLS},
            ),
            note="default TLSV1_2",
        ),
        later("maxProtocolVersion", STRING),
        later("cipherSuites", ListOf(STRING)),
    ),
)


def _host(text: str, spot: Spot) -> Any:
    """``[<namespace>/]<dns>``; the namespace may be ``.`` or ``*``."""
    namespace, slash, dns = text.lower().rpartition("/")
    if is_host(dns, wildcard=True) and (
        not slash or namespace in (".", "*") or is_label(namespace)
    ):
        return text.lower()
    remedy = "write a host, *.suffix or *, with a namespace before a slash if needed"
    return spot.error(f'"{text[:70]}" is not a host of a server', remedy)


def _tls(parts: Parts, spot: Spot, protocol: str) -> Any:
    """The TLS settings of a server; ⚠ an absent mode is PASSTHROUGH."""
    if parts.given("mode") and parts.get("mode") is None:
        return INVALID
    if parts.get("httpsRedirect"):
        parts.at("httpsRedirect").warn(
            f"has no effect on an {protocol} server", "remove it", "ignored"
        )
    if parts.get("mode", "PASSTHROUGH") == "PASSTHROUGH":
        return _passthrough(parts, spot, protocol)
    refused = any(map(parts.given, ("credentialName", "credentialNames", "tlsCertificates")))
    for name in ("serverCertificate", "privateKey"):
        if not parts.given(name) and not refused:
            remedy = f"add {name}: a PEM file on the gateway's host"
            spot.error(f"{name} is required with mode SIMPLE", remedy, "required")
    return ServerTLS(
        mode="SIMPLE",
        server_certificate=parts.get("serverCertificate", ""),
        private_key=parts.get("privateKey", ""),
        https_redirect=parts.get("httpsRedirect", False),
        min_protocol_version=parts.get("minProtocolVersion", "TLSV1_2"),
    )


def _passthrough(parts: Parts, spot: Spot, protocol: str) -> Any:
    """Nothing here is ours: a certificate beside it means that the mode was forgotten."""
    if not is_tls(protocol):
        return spot.error(f"PASSTHROUGH needs protocol: TLS, not {protocol}", _SIMPLE, "conflict")
    for name in ("serverCertificate", "privateKey", "minProtocolVersion"):
        if parts.given(name):
            said = "mode: PASSTHROUGH" if parts.given("mode") else "tls without mode (PASSTHROUGH)"
            message = f"{said} leaves TLS to the service, so {name} has no use"
            parts.at(name).error(message, f"write mode: SIMPLE, or remove {name}", "conflict")
    return ServerTLS("PASSTHROUGH")


def _server(parts: Parts) -> Any:
    port: Port = parts.get("port")
    tls: Parts | None = parts.get("tls")
    settings = None
    if parts.given("tls") and tls is None:
        return INVALID
    if tls is not None and is_http(port.protocol):
        _plain_tls(tls)
    elif tls is not None:
        settings = _tls(tls, parts.at("tls"), port.protocol)
    elif is_tls(port.protocol):
        message = f"a server of protocol {port.protocol} needs tls"
        return parts.spot.error(message, f"add tls: {_SIMPLE}", "required")
    if settings is INVALID:
        return INVALID
    return Server(
        port=port,
        hosts=parts.get("hosts"),
        tls=settings,
        https_redirect=bool(tls and tls.get("httpsRedirect") and is_http(port.protocol)),
        bind=parts.get("bind", ""),
        name=parts.get("name", ""),
        position=parts.spot.position,
    )


def _plain_tls(tls: Parts) -> None:
    """The tls block of an HTTP server may hold httpsRedirect only."""
    for name in ("mode", "serverCertificate", "privateKey", "minProtocolVersion"):
        if tls.given(name):
            message = f'"{name}" has no meaning on an HTTP server'
            tls.at(name).error(message, "write protocol: HTTPS, or remove it")


SERVER = Message(
    "Server",
    (
        Field("port", SERVER_PORT, required=True),
        Field("bind", IP, note="address of the listener; default: the gateway's"),
        Field("hosts", ListOf(String("a host", _host), at_least=1), required=True),
        Field("tls", SERVER_TLS, note="on an HTTP server only httpsRedirect"),
        later("defaultEndpoint", STRING),
        Field("name", STRING),
    ),
    _server,
)


def bare(host: str) -> str:
    """A server's host without its namespace."""
    return host.rpartition("/")[2]


def shareable(one: Server, other: Server) -> bool:
    """Two servers can be told apart on one port: by Host, or by the ClientHello's name.

    ⚠ Istio leaves out the later of two that cannot, in silence.
    """
    return one is other or (one.shape == other.shape and one.shape != "TCP")


def _check_servers(spot: Spot, servers: tuple[Server, ...]) -> None:
    """What Istio would leave out in silence: one address, several meanings."""
    seen: dict[tuple[str, int, str], Server] = {}
    protocols: dict[tuple[str, int], Server] = {}
    names: dict[str, Server] = {}
    for server in servers:
        address = (server.bind, server.port.number)
        first = protocols.setdefault(address, server)
        if not shareable(first, server):
            message = f"port {address[1]} is {first.port.protocol} at line {first.position.line}"
            spot.error(message, "give the server another port", "conflict", server.position)
            continue
        for host in map(bare, server.hosts):
            twin = seen.setdefault((*address, host), server)
            if twin is not server:
                message = (
                    f'the host "{host}" of port {address[1]} is served at line {twin.position.line}'
                )
                spot.error(message, "remove one", "duplicate-host", server.position)
        if server.name and names.setdefault(server.name, server) is not server:
            message = f'the server name "{server.name}" is given twice'
            spot.error(message, "rename one", "duplicate", server.position)


def _build(parts: Parts) -> Draft:
    selector = parts.get("selector", {})
    if not selector and not parts.given("selector"):
        parts.spot.warn(
            "a Gateway without selector applies to every gateway",
            "add selector: such as istio: ingressgateway",
        )
    servers = parts.get("servers")
    _check_servers(parts.at("servers"), servers)
    return lambda meta: Gateway(meta, selector, servers)


GATEWAY = Message(
    "Gateway",
    (
        Field("servers", ListOf(SERVER, at_least=1), required=True),
        Field("selector", LABELS, note="absent: every gateway"),
    ),
    _build,
)
