"""The resources that this release executes, typed.

Every class mirrors an Istio message (field names in snake_case); what Istio has
and these lack is refused by name in `meshkit.model.decode`.  Durations are
seconds.  A resource keeps its original document (`Meta.document`) so that what
was applied is what `meshctl get` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from meshkit.model.problems import NOWHERE, Position
from meshkit.model.protocols import HTTP_PROTOCOLS

MatchKind = Literal["exact", "prefix", "regex", "present"]
TLSMode = Literal["ISTIO_MUTUAL", "DISABLE"]
Balancer = Literal["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]
PeerMode = Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]
ServerTLSMode = Literal["SIMPLE", "PASSTHROUGH"]


@dataclass(frozen=True, slots=True)
class Meta:
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    position: Position
    document: Mapping[str, Any]
    created: int = 0
    """Revision that first created it: where "the oldest wins", the smallest."""
    revision: int = 0
    """Revision that last changed it; 0 for what has not been applied yet."""

    @property
    def key(self) -> str:
        """``VirtualService/default/reviews``."""
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """Istio StringMatch.  ``present`` is our name for ``{}``: the key exists."""

    kind: MatchKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class HeaderOperations:
    """Istio Headers.HeaderOperations: ``set`` overwrites, ``add`` appends."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Headers:
    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


@dataclass(frozen=True, slots=True)
class HTTPMatch:
    """Istio HTTPMatchRequest; all fields AND.  Header names are lower-case."""

    name: str = ""
    uri: StringMatch | None = None
    ignore_uri_case: bool = False
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: tuple[tuple[str, StringMatch], ...] = ()
    without_headers: tuple[tuple[str, StringMatch], ...] = ()
    query_params: tuple[tuple[str, StringMatch], ...] = ()
    position: Position = NOWHERE


@dataclass(frozen=True, slots=True)
class RouteDestination:
    host: str
    subset: str = ""
    port: int | None = None
    weight: int = 0
    headers: Headers = Headers()
    position: Position = NOWHERE


@dataclass(frozen=True, slots=True)
class Retries:
    """Istio HTTPRetry.  attempts 0 = disabled (also ``retries: {}``).

    ``retry_on`` None = Istio's default list; a given list replaces the whole.
    """

    attempts: int
    per_try_timeout: float | None = None
    retry_on: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class HTTPRoute:
    """Istio HTTPRoute.  ``retries`` None = the default (2 attempts)."""

    name: str
    match: tuple[HTTPMatch, ...]
    route: tuple[RouteDestination, ...]
    timeout: float | None = None
    retries: Retries | None = None
    headers: Headers = Headers()
    position: Position = NOWHERE


@dataclass(frozen=True, slots=True)
class L4Match:
    """Istio TLSMatchAttributes (``sni_hosts`` never empty) and L4MatchAttributes (always).

    ``gateways`` in full, empty = all of the VirtualService's.
    """

    sni_hosts: tuple[str, ...] = ()
    port: int | None = None
    gateways: tuple[str, ...] = ()
    position: Position = NOWHERE

    def applies(self, gateway: str, port: int) -> bool:
        """To connections to ``port`` at ``gateway`` ("mesh" or ns/name)."""
        return self.port in (None, port) and (not self.gateways or gateway in self.gateways)


@dataclass(frozen=True, slots=True)
class L4Route:
    """Istio TLSRoute and TCPRoute."""

    match: tuple[L4Match, ...]
    route: tuple[RouteDestination, ...]
    position: Position = NOWHERE


@dataclass(frozen=True, slots=True)
class VirtualService:
    meta: Meta
    hosts: tuple[str, ...]
    gateways: tuple[str, ...]
    """As written, defaulted to ("mesh",); "<ns>/<name>", a bare name qualified."""
    http: tuple[HTTPRoute, ...]
    tls: tuple[L4Route, ...] = ()
    tcp: tuple[L4Route, ...] = ()


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """None means "not given": the level above, then the default, decides."""

    load_balancer: Balancer | None = None
    tls: TLSMode | None = None


@dataclass(frozen=True, slots=True)
class Subset:
    name: str
    labels: Mapping[str, str]
    policy: TrafficPolicy = TrafficPolicy()
    position: Position = NOWHERE


@dataclass(frozen=True, slots=True)
class DestinationRule:
    meta: Meta
    host: str
    policy: TrafficPolicy
    subsets: tuple[Subset, ...]


@dataclass(frozen=True, slots=True)
class Port:
    number: int
    protocol: str
    name: str = ""
    target_port: int | None = None


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """Istio ServerTLSSettings; files only (credentialName comes with Kubernetes).

    With PASSTHROUGH there are none, and nothing else in it has a meaning.
    """

    mode: ServerTLSMode
    server_certificate: str = ""
    private_key: str = ""
    https_redirect: bool = False
    min_protocol_version: Literal["TLSV1_2", "TLSV1_3"] = "TLSV1_2"


@dataclass(frozen=True, slots=True)
class Server:
    """Istio Gateway.Server.  ``hosts`` may be ``ns/dns``; tls None = plaintext.

    On an HTTP server a ``tls`` block carries only httpsRedirect, kept in
    ``https_redirect`` here.
    """

    port: Port
    hosts: tuple[str, ...]
    tls: ServerTLS | None = None
    https_redirect: bool = False
    bind: str = ""
    name: str = ""
    position: Position = NOWHERE

    @property
    def passthrough(self) -> bool:
        """Its TLS is not ended here: the server name routes (``tls`` rules)."""
        return self.tls is not None and self.tls.mode == "PASSTHROUGH"

    @property
    def carries(self) -> Literal["http", "tls", "tcp"]:
        """Which rules of a VirtualService act on it."""
        if self.passthrough:
            return "tls"
        return "http" if self.port.protocol in _GATEWAY_HTTP else "tcp"

    @property
    def shape(self) -> Literal["HTTP", "TLS", "TCP"]:
        """What its port takes first.  Servers of one shape can share a port, but for TCP."""
        if self.tls is not None:
            return "TLS"
        return "HTTP" if self.carries == "http" else "TCP"


_GATEWAY_HTTP = HTTP_PROTOCOLS | {"HTTPS"}


@dataclass(frozen=True, slots=True)
class Gateway:
    meta: Meta
    selector: Mapping[str, str]
    servers: tuple[Server, ...]


@dataclass(frozen=True, slots=True)
class WorkloadEntrySpec:
    """Istio WorkloadEntry's spec, also inline as ServiceEntry.endpoints[]."""

    address: str
    ports: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1
    service_account: str = ""
    position: Position = NOWHERE


@dataclass(frozen=True, slots=True)
class WorkloadEntry:
    meta: Meta
    spec: WorkloadEntrySpec


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """Istio ServiceEntry with resolution STATIC."""

    meta: Meta
    hosts: tuple[str, ...]
    ports: tuple[Port, ...]
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    endpoints: tuple[WorkloadEntrySpec, ...] = ()
    workload_selector: Mapping[str, str] | None = None
    addresses: tuple[str, ...] = ()
    """IP addresses and networks, canonical."""


@dataclass(frozen=True, slots=True)
class PeerAuthentication:
    """``port_modes`` are keyed by the WORKLOAD's port (istio-semantics 5)."""

    meta: Meta
    selector: Mapping[str, str] | None
    mode: PeerMode
    port_modes: Mapping[int, PeerMode] = field(default_factory=dict)


Resource = (
    VirtualService | DestinationRule | Gateway | ServiceEntry | WorkloadEntry | PeerAuthentication
)


@dataclass(frozen=True, slots=True)
class Health:
    """The application's own check: HTTP path (2xx is healthy) or a TCP connect."""

    http: str | None
    port: int
    """Port of the application that is asked (its target port)."""
    interval: float = 5.0
    timeout: float = 1.0


@dataclass(frozen=True, slots=True)
class ServicePort:
    """``port`` is the mesh's (service) port, ``target`` where the application listens."""

    name: str
    port: int
    target: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Upstream:
    """An explicit local port: ``listen`` (loopback address:port) → service host and port.

    ``protocol`` "" = what the service's port declares.
    """

    listen: str
    host: str
    port: int
    position: Position = NOWHERE
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class LocalService:
    """One file (document) of ``services.d``: an application on this host.

    ``user`` is the Unix user name or numeric uid that owns the process: the
    caller's identity on outbound connections; "" = the uid meshd runs as.
    ``instance`` tells instances of one service on one host apart (default: the
    version, else ``main``).  ``capture`` is the loopback address:port that a redirect
    rule sends its outbound connections to; "" = none.
    """

    name: str
    namespace: str
    service_account: str
    instance: str
    labels: Mapping[str, str]
    ports: tuple[ServicePort, ...]
    address: str = "127.0.0.1"
    user: str = ""
    health: Health | None = None
    upstreams: tuple[Upstream, ...] = ()
    capture: str = ""
    position: Position = NOWHERE
