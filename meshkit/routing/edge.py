"""A gateway's listeners and servers, from the Gateway resources that select it.

Servers of one address and port share a listener, and only if they can: all
plaintext HTTP, told apart by Host, or all TLS with distinct hosts, told apart by
the ClientHello (whether it ends here or is passed through).  Istio drops the later of two that
cannot silently; here the older one runs and the other is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from meshkit.model.gateway import shareable
from meshkit.model.problems import Problem, Severity
from meshkit.model.resources import Gateway, Resource, Server, ServerTLS
from meshkit.routing.age import by_age
from meshkit.routing.inputs import GatewayParts
from meshkit.snapshot.types import EdgeServer, ListenerSpec


@dataclass(frozen=True, slots=True)
class Bound:
    """A server that runs here.  ``scope`` names its route table, ``listener`` its socket."""

    gateway: Gateway
    server: Server
    scope: str
    listener: ListenerSpec


@dataclass(frozen=True, slots=True)
class Edge:
    """All servers of this gateway, with what could not run."""

    bound: tuple[Bound, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def listeners(self) -> tuple[ListenerSpec, ...]:
        unique = {bound.listener.id: bound.listener for bound in self.bound}
        return tuple(unique[ident] for ident in sorted(unique))

    @property
    def servers(self) -> tuple[EdgeServer, ...]:
        return tuple(sorted(map(_edge_server, self.bound), key=lambda server: server.scope))


def certificate_name(tls: ServerTLS | None) -> str:
    """The name under which workers get a server's certificate; "" = plaintext."""
    return f"{tls.server_certificate}|{tls.private_key}" if tls and tls.server_certificate else ""


def edge_certificates(edge: Edge) -> Mapping[str, tuple[str, str]]:
    """Certificate name → files (chain, key) that the agent must read and send."""
    return {
        certificate_name(b.server.tls): (b.server.tls.server_certificate, b.server.tls.private_key)
        for b in edge.bound
        if b.server.tls and not b.server.passthrough
    }


def plan_edge(resources: Iterable[Resource], parts: GatewayParts | None) -> Edge:
    """Which servers run on this host; none where it is no gateway."""
    if parts is None:
        return Edge()
    gateways = [r for r in resources if isinstance(r, Gateway) and selects(r, parts.labels)]
    bound: list[Bound] = []
    problems: list[Problem] = []
    for candidate in _servers(by_age(gateways), parts.bind):
        rival = next((b for b in bound if _conflict(b, candidate)), None)
        if rival is None:
            bound.append(candidate)
        else:
            problems.append(_refusal(candidate, rival))
    return Edge(tuple(bound), tuple(problems))


def selects(gateway: Gateway, labels: Mapping[str, str]) -> bool:
    """Gateway.selector: ⚠ none selects every gateway."""
    return gateway.selector.items() <= labels.items()


def _servers(gateways: Iterable[Gateway], bind: str) -> Iterator[Bound]:
    for gateway in gateways:
        for index, server in enumerate(gateway.servers):
            address, port = server.bind or bind, server.port.number
            name = f"{gateway.meta.namespace}/{gateway.meta.name}"
            listener = ListenerSpec(
                f"edge|{address}|{port}", "edge", address, port, protocol=server.shape
            )
            yield Bound(gateway, server, f"gateway|{name}|{port}|{index}", listener)


def _conflict(one: Bound, other: Bound) -> bool:
    if one.listener.id != other.listener.id:
        return False
    if not shareable(one.server, other.server):
        return True
    return one.server.tls is not None and bool(_dns(one.server) & _dns(other.server))


def _dns(server: Server) -> set[str]:
    return {host.rpartition("/")[2].lower() for host in server.hosts}


def _refusal(bound: Bound, rival: Bound) -> Problem:
    meta = bound.gateway.meta
    return Problem(
        bound.server.position,
        "spec.servers",
        f"server {bound.server.name or bound.scope} of {meta.key} cannot share port "
        f"{bound.listener.port} with {rival.gateway.meta.key}",
        "give it another port, the same kind of protocol, or other hosts",
        "conflict",
        Severity.WARNING,
    )


def _edge_server(bound: Bound) -> EdgeServer:
    tls = bound.server.tls
    return EdgeServer(
        listener=bound.listener.id,
        scope=bound.scope,
        hosts=tuple(sorted(_dns(bound.server))),
        certificate=certificate_name(tls),
        min_protocol_version=tls.min_protocol_version if tls else "TLSV1_2",
        https_redirect=bound.server.https_redirect or bool(tls and tls.https_redirect),
        protocol="HTTP" if bound.server.carries == "http" else "TCP",
        passthrough=bound.server.passthrough,
    )
