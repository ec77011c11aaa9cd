"""The compiled, immutable values that an agent hands to its workers.

A snapshot is a `HostConfig` and, for every scope, a map from host name to the
content hash of one `OutboundHost`.  A *scope* is who asks: the namespace of a
local caller, or ``gateway|<namespace>/<name>|<port>|<index of the server>`` for
a gateway's server.  Workers hold blobs as bytes and decode a host at its first request.

Everything here is plain data: the codec (`meshkit.snapshot.codec`) turns each
into canonical JSON and back, and the hash is over those bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from meshkit.model.resources import HeaderOperations, HTTPMatch
from meshkit.names import MeshSettings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a request can go.  ``sni`` "" means plaintext to address:port."""

    address: str
    port: int
    sni: str = ""
    weight: int = 1
    instance: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cluster:
    """``name`` is Istio's ``outbound|<port>|<subset>|<host>``.

    ``accounts``: SPIFFE ids that may answer on mTLS endpoints (secure naming);
    empty with mTLS endpoints = nobody may: refused, UF.
    """

    name: str
    balancer: Literal["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]
    endpoints: tuple[Endpoint, ...]
    accounts: tuple[str, ...] = ()
    connect_timeout: float = 10.0
    protocol: str = "HTTP"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Resolved: defaults filled in.  attempts 0 = never.  Seconds."""

    attempts: int = 2
    per_try_timeout: float | None = None
    retry_on: tuple[str, ...] = ("connect-failure", "refused-stream", "unavailable", "cancelled")
    backoff_base: float = 0.025


@dataclass(frozen=True, slots=True)
class Destination:
    """``cluster`` names an entry of OutboundHost.clusters; missing → 503 NC."""

    cluster: str
    weight: int
    request_headers: HeaderOperations = HeaderOperations()
    response_headers: HeaderOperations = HeaderOperations()


@dataclass(frozen=True, slots=True)
class Route:
    """First match wins; ``match`` empty = always.  timeout None = off, seconds."""

    name: str
    match: tuple[HTTPMatch, ...]
    destinations: tuple[Destination, ...]
    timeout: float | None = None
    retry: RetryPolicy = RetryPolicy()
    request_headers: HeaderOperations = HeaderOperations()
    response_headers: HeaderOperations = HeaderOperations()
    origin: str = ""
    """``VirtualService/default/reviews file:line``, or "default"."""


@dataclass(frozen=True, slots=True)
class TCPRoute:
    """Where a connection's bytes go; first match wins, the choice is per connection.

    ``sni_hosts``: dns patterns (``*``, ``*.x``, exact), one of which must cover the
    ClientHello's server name; empty = any connection, with TLS or without.
    ``idle_timeout``: seconds without a byte either way; None = the worker's limit.
    """

    name: str
    sni_hosts: tuple[str, ...]
    destinations: tuple[Destination, ...]
    origin: str = ""
    """As of `Route`."""
    idle_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class OutboundHost:
    """All that a worker must know of one host name (FQDN, or ``*.suffix``).

    ``ports`` maps a service port to its HTTP routes, ``tcp`` to its TCP and TLS
    routes, in order; for a gateway's scope the only key is 0 (any port).  A port
    in both is one of protocol AUTO: what the bytes look like decides.  A gateway's
    servers that see no server name (TCP, or TLS ended there) have one host, ``*``.
    ``service``/``namespace`` label the telemetry.
    """

    host: str
    service: str
    namespace: str
    ports: Mapping[int, tuple[Route, ...]]
    clusters: Mapping[str, Cluster]
    tcp: Mapping[int, tuple[TCPRoute, ...]] = field(default_factory=dict)


ADDRESSES = "|addresses"
"""The key of a scope's map that names its `AddressTable`; no host has such a name."""


@dataclass(frozen=True, slots=True)
class AddressTable:
    """Which service a captured connection was meant for, by its original destination.

    ``entries``: ``10.0.0.7:5432``, ``[fd00::7]:5432``, or ``*:5432`` for a port that
    is matched by its number alone → (host, service port), looked up in that order
    with ``networks`` (CIDR, port, host, service port; the longest prefix first)
    before the last: `meshkit.routing.addresses.find`.  Not found: not of the mesh.
    A host "" is to be read from the ClientHello: several TLS services share that
    address, and the server name finds the host in the scope.
    """

    entries: Mapping[str, tuple[str, int]]
    networks: tuple[tuple[str, int, str, int], ...] = ()


ListenerKind = Literal["mesh", "plain", "proxy", "local", "edge", "capture"]


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """One address that workers accept on; the socket itself comes by descriptor.

    mesh: mTLS inbound.  plain: plaintext of ``service_port`` of the workloads of
    ``service`` (namespace/name).  proxy: the local HTTP proxy.  local: an
    explicit port for ``upstream`` (host, port), of the workload ``owner``.
    edge: a gateway's port, all its servers.  capture: redirected connections of the
    workload ``owner``, whose original destination the `AddressTable` knows.

    ``protocol`` says what is accepted: HTTP (both versions), TCP (bytes), TLS (a
    ClientHello, not ended here, or for edge: ended or not as its server says), AUTO
    (whatever the first bytes look like).  The mesh port goes by ALPN instead.
    """

    id: str
    kind: ListenerKind
    address: str
    port: int
    service: str = ""
    service_port: int = 0
    upstream: tuple[str, int] | None = None
    owner: str = ""
    protocol: Literal["HTTP", "TCP", "TLS", "AUTO"] = "HTTP"


@dataclass(frozen=True, slots=True)
class WorkloadPort:
    port: int
    address: str
    target: int
    protocol: str
    mode: Literal["DISABLE", "PERMISSIVE", "STRICT"]


@dataclass(frozen=True, slots=True)
class Workload:
    """A local service instance.  ``id`` = ``<namespace>/<name>/<instance>``.

    ``identity`` is its SPIFFE id; ``uid`` who owns its process (caller identity).
    """

    id: str
    service: str
    namespace: str
    instance: str
    identity: str
    uid: int
    labels: Mapping[str, str]
    ports: tuple[WorkloadPort, ...]


@dataclass(frozen=True, slots=True)
class EdgeServer:
    """One server of a Gateway.  ``certificate`` names a `keys` entry; "" = plaintext.

    ``hosts`` are dns patterns (``*``, ``*.x``, exact); ``scope`` the route table.
    ``protocol``: what comes after TLS, if TLS is ended here: HTTP, or TCP (bytes, to
    the host ``*`` of the scope).  ``passthrough``: TLS is not ended here; the
    server name finds the host in the scope, and its TCP routes apply.
    """

    listener: str
    scope: str
    hosts: tuple[str, ...]
    certificate: str = ""
    min_protocol_version: Literal["TLSV1_2", "TLSV1_3"] = "TLSV1_2"
    https_redirect: bool = False
    protocol: Literal["HTTP", "TCP"] = "HTTP"
    passthrough: bool = False


@dataclass(frozen=True, slots=True)
class HostConfig:
    """Everything of a worker's that is not a route: one blob."""

    host: str
    mesh: MeshSettings
    listeners: tuple[ListenerSpec, ...]
    workloads: tuple[Workload, ...]
    edge: tuple[EdgeServer, ...] = ()
    edge_identity: str = ""
    """SPIFFE id under which a gateway calls into the mesh; "" on other hosts."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Overrides of meshkit.http.limits by name."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the agent keeps and sends: revision, the host blob, scopes and blobs."""

    revision: str
    host: str
    """Hash of the HostConfig blob."""
    scopes: Mapping[str, Mapping[str, str]]
    """scope → host name → hash of its OutboundHost blob."""
    blobs: Mapping[str, bytes]
