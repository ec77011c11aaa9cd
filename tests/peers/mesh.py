"""The smallest mesh that real peers can be put around: three workers, no agents.

``near`` holds the callers (this process's uid), ``far`` the applications, ``edge``
is a gateway.  `PeerMesh.add` declares a service of any protocol, whose
application is wherever the test started it.  It is then reached

- directly (`Service.target`), to prove the peers against each other,
- through near and far: `Service.local`, an explicit local port,
- through edge and far: the gateway's ports, by the name `Service.edge_host`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshd import counters
from meshkit.names import ServiceName
from meshkit.snapshot import messages
from meshkit.snapshot.sni import mesh_sni
from meshkit.snapshot.types import (
    Cluster,
    Destination,
    EdgeServer,
    Endpoint,
    HostConfig,
    ListenerSpec,
    OutboundHost,
    RetryPolicy,
    Route,
    TCPRoute,
    Workload,
    WorkloadPort,
)
from tests.meshd.worker.real.rig import MESH, Authority, Rig, identity, listen, rig
from tests.peers.certificates import server_certificate

HTTP = frozenset(("HTTP", "HTTP2", "GRPC"))
PORT = 80
"""Every service's own port; the application's is wherever it listens."""
EDGE_DOMAIN = "peers.example"
EDGE_CERTIFICATE = "edge-certificate"
CALLER = "default/caller/main"


@dataclass(frozen=True, slots=True)
class Service:
    """One service: ``target`` is its application's port, ``local`` the caller's port for it."""

    name: str
    protocol: str
    target: int
    local: int
    accounts: tuple[str, ...]
    """Who may answer for it."""
    endpoint: Endpoint
    edge_port: int = 0
    """The gateway's port for it; its own for TCP, 0 for HTTP."""

    @property
    def host(self) -> str:
        return f"{self.name}.default.svc.cluster.local"

    @property
    def edge_host(self) -> str:
        return f"{self.name}.{EDGE_DOMAIN}"

    @property
    def cluster(self) -> str:
        return f"outbound|{PORT}||{self.host}"

    @property
    def is_http(self) -> bool:
        return self.protocol in HTTP

    @property
    def is_tls(self) -> bool:
        return self.protocol in ("TLS", "HTTPS")


def sni_of(service: str) -> str:
    return mesh_sni(ServiceName("default", service), PORT, "main", MESH.domain)


def protocol_of_listener(service_protocol: str) -> str:
    if service_protocol in HTTP:
        return "HTTP"
    return "TLS" if service_protocol in ("TLS", "HTTPS") else "TCP"


@dataclass
class PeerMesh:
    """Use `peer_mesh`, which makes and ends it."""

    folder: Path
    authority: Authority
    near: Rig
    far: Rig
    edge: Rig
    mesh_port: int = 0
    proxy: int = 0
    edge_http: int = 0
    edge_https: int = 0
    edge_tls: int = 0
    """Where every TLS service passes through, by its server name."""
    services: dict[str, Service] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    """Overrides of meshkit.http.limits, on all three; `apply` makes them live."""
    outside: str = ""
    """PEM of the root that the gateway's certificate is signed with."""
    _listeners: dict[str, list[ListenerSpec]] = field(default_factory=dict)
    _sockets: list[socket.socket] = field(default_factory=list)
    _revision: int = 0

    def begin(self) -> None:
        self.mesh_port = self._open("far", "mesh", "mesh").port
        self.proxy = self._open("near", "proxy", "proxy").port
        self.edge_http = self._open("edge", "edge-http", "edge").port
        self.edge_https = self._open("edge", "edge-https", "edge").port
        self.edge_tls = self._open("edge", "edge-tls", "edge", protocol="TLS").port
        for one in (self.near, self.far, self.edge):
            one.trust(self.authority)
            one.log_requests()
        for one, account in ((self.near, "caller"), (self.edge, "gateway")):
            one.keys(identity(account), self.authority.issue(identity(account)))
        outside, pair = server_certificate(f"*.{EDGE_DOMAIN}")
        self.outside = outside
        self.edge.keys(EDGE_CERTIFICATE, pair)
        self.apply()

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def _open(self, where: str, ident: str, kind: str, **fields: Any) -> ListenerSpec:
        """A listener of one of the workers, live with the next `apply`."""
        sock = listen()
        self._sockets.append(sock)
        spec = ListenerSpec(ident, kind, *sock.getsockname()[:2], **fields)  # type: ignore[arg-type]
        getattr(self, where).listener(spec, sock)
        self._listeners.setdefault(where, []).append(spec)
        return spec

    # Services

    def add(
        self,
        name: str,
        protocol: str,
        target: int,
        *,
        accounts: tuple[str, ...] = (),
        endpoint: Endpoint | None = None,
    ) -> Service:
        """Declare a service, live at once.  ``endpoint``: elsewhere than on ``far``."""
        kind = protocol_of_listener(protocol)
        host = f"{name}.default.svc.cluster.local"
        local = self._open(
            "near", f"local-{name}", "local", upstream=(host, PORT), owner=CALLER, protocol=kind
        )
        edge_port = self.edge_tls if kind == "TLS" else 0
        if kind == "TCP":
            edge_port = self._open("edge", f"edge-{name}", "edge", protocol=kind).port
        service = Service(
            name,
            protocol,
            target,
            local.port,
            accounts or (identity(name),),
            endpoint or Endpoint("127.0.0.1", self.mesh_port, sni_of(name)),
            edge_port,
        )
        self.services[name] = service
        self.far.keys(identity(name), self.authority.issue(identity(name)))
        self.apply()
        return service

    def apply(self) -> None:
        """Give all three workers the configuration as it is now."""
        self._revision += 1
        inside = [self._outbound(s, s.host, PORT) for s in self.services.values()]
        http = [self._outbound(s, s.edge_host, 0) for s in self.services.values() if s.is_http]
        scopes = {"edge": http} | {
            f"edge-{s.name}": [self._outbound(s, s.edge_host if s.is_tls else "*", 0)]
            for s in self.services.values()
            if not s.is_http
        }
        self._configure(self.near, "near", (self._caller(),), {"default": inside})
        self._configure(self.far, "far", tuple(map(self._workload, self.services.values())), {})
        self._configure(
            self.edge, "edge", (), scopes, edge=self._servers(), edge_identity=identity("gateway")
        )

    def _configure(
        self,
        one: Rig,
        where: str,
        workloads: tuple[Workload, ...],
        scopes: dict[str, list[OutboundHost]],
        **more: Any,
    ) -> None:
        listeners = tuple(self._listeners[where])
        config = HostConfig(where, MESH, listeners, workloads, limits=self.limits, **more)
        frame = one.configure(config, scopes, str(self._revision))
        assert frame.type == "ack", frame

    def _servers(self) -> tuple[EdgeServer, ...]:
        servers = [
            EdgeServer("edge-http", "edge", ("*",)),
            EdgeServer("edge-https", "edge", (f"*.{EDGE_DOMAIN}",), EDGE_CERTIFICATE),
        ]
        for s in self.services.values():
            scope = f"edge-{s.name}"
            if s.is_tls:
                servers.append(EdgeServer("edge-tls", scope, (s.edge_host,), passthrough=True))
            elif not s.is_http:
                servers.append(EdgeServer(scope, scope, ("*",), protocol="TCP"))
        return tuple(servers)

    def _caller(self) -> Workload:
        return _workload_of("caller", os.getuid(), ())

    def _workload(self, service: Service) -> Workload:
        port = WorkloadPort(PORT, "127.0.0.1", service.target, service.protocol, "STRICT")
        return _workload_of(service.name, 65534, (port,))

    def _outbound(self, service: Service, host: str, port: int) -> OutboundHost:
        cluster = Cluster(
            service.cluster,
            "LEAST_REQUEST",
            (service.endpoint,),
            service.accounts,
            protocol=service.protocol,
        )
        clusters = {service.cluster: cluster}
        to = (Destination(service.cluster, 1),)
        if service.is_http:
            route = Route(f"{service.name}-route", (), to, retry=RetryPolicy())
            return OutboundHost(host, service.name, "default", {port: (route,)}, clusters)
        sni = (host,) if service.is_tls and port == 0 else ()
        tcp = TCPRoute(f"{service.name}-route", sni, to)
        return OutboundHost(host, service.name, "default", {}, clusters, {port: (tcp,)})

    # What the workers say

    def count(self, side: str, name: str, **labels: str) -> int:
        """The sum of a metric's series that have these labels."""
        return sum(
            sum(values)
            for series, have, values in self._series(side)
            if series == name and labels.items() <= dict(have).items()
        )

    def hits(self, side: str) -> dict[str, int]:
        """limit → how often it was hit."""
        return {
            dict(labels)["limit"]: values[0]
            for name, labels, values in self._series(side)
            if name == "meshd_limit_hits_total" and values[0]
        }

    def _series(self, side: str) -> list[Any]:
        one: Rig = getattr(self, side)
        return counters.read(self.folder / f"counters.{one.index}")

    def alive(self, side: str) -> dict[str, int]:
        """Connections and fibers of a worker now."""
        one: Rig = getattr(self, side)
        one.send(messages.ping(1))
        header = one.expect("pong").header
        return {"connections": header["connections"], "fibers": header["fibers"]}

    def entries(self, side: str) -> list[dict[str, Any]]:
        """The access log."""
        one: Rig = getattr(self, side)
        return [json.loads(line) for line in one.access_log.read_text().splitlines()]

    def log(self, side: str) -> str:
        """What a worker wrote on standard error."""
        one: Rig = getattr(self, side)
        return one.stderr.read_text()


def _workload_of(name: str, uid: int, ports: tuple[WorkloadPort, ...]) -> Workload:
    labels = {"app": name, "version": "v1"}
    return Workload(
        f"default/{name}/main", name, "default", "main", identity(name), uid, labels, ports
    )


@contextmanager
def peer_mesh(folder: Path, **limits: int) -> Iterator[PeerMesh]:
    """Three workers that know no service yet."""
    with ExitStack() as stack:
        near, far, edge = (stack.enter_context(rig(folder, i)) for i in range(3))
        mesh = PeerMesh(folder, Authority(), near, far, edge, limits=dict(limits))
        stack.callback(mesh.close)
        mesh.begin()
        yield mesh
