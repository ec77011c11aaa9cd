"""The HostConfig: listeners, local workloads with their mTLS modes, edge servers.

Which sockets there are must not depend on policy alone: a service's plaintext
port keeps its listener under STRICT and DISABLE too, so that what is refused
there is answered and counted rather than lost in a closed port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from meshkit.identity.spiffe import account_id
from meshkit.model.problems import Problem, Severity
from meshkit.model.protocols import Accepts, accepts
from meshkit.model.resources import (
    LocalService,
    PeerAuthentication,
    Resource,
    ServicePort,
    Upstream,
)
from meshkit.names import MeshSettings, qualify
from meshkit.routing.edge import Edge
from meshkit.routing.inputs import GatewayParts, HostParts
from meshkit.routing.peer_authentication import effective_mode
from meshkit.snapshot.types import HostConfig, ListenerSpec, Workload, WorkloadPort

UNKNOWN_UID = -1
"""No process has it: a service whose user is unknown is nobody's caller identity."""

Target = tuple[str, int]
Upstreams = Mapping[Target, str]
"""(full host, port) → the protocol that it is known to have; a host may be unknown."""

_EVERYWHERE = ("0.0.0.0", "::", "")


def host_config(
    parts: HostParts,
    mesh: MeshSettings,
    resources: Iterable[Resource],
    edge: Edge,
    upstreams: Upstreams,
) -> tuple[HostConfig, tuple[Problem, ...]]:
    """The blob that workers configure themselves from, and what did not fit in."""
    policies = [r for r in resources if isinstance(r, PeerAuthentication)]
    services = sorted(parts.services, key=workload_id)
    listeners, problems = _distinct(_listeners(parts, services, mesh, edge, upstreams))
    config = HostConfig(
        host=parts.name,
        mesh=mesh,
        listeners=tuple(listeners),
        workloads=tuple(_workload(service, parts, mesh, policies) for service in services),
        edge=edge.servers,
        edge_identity=_edge_identity(parts.gateway, mesh),
        limits=parts.limits,
    )
    unknown = (_unknown_user(s) for s in services if s.user not in parts.uids)
    contradictions = _contradictions(services, mesh, upstreams)
    return config, (*problems, *unknown, *contradictions)


def _edge_identity(gateway: GatewayParts | None, mesh: MeshSettings) -> str:
    if gateway is None:
        return ""
    return account_id(mesh.trust_domain, gateway.namespace, gateway.service_account)


def workload_id(service: LocalService) -> str:
    """``<namespace>/<name>/<instance>``, unique on a host."""
    return f"{service.namespace}/{service.name}/{service.instance}"


# -- workloads ----------------------------------------------------------------


def _workload(
    service: LocalService,
    parts: HostParts,
    mesh: MeshSettings,
    policies: Sequence[PeerAuthentication],
) -> Workload:
    return Workload(
        id=workload_id(service),
        service=service.name,
        namespace=service.namespace,
        instance=service.instance,
        identity=account_id(mesh.trust_domain, service.namespace, service.service_account),
        uid=parts.uids.get(service.user, UNKNOWN_UID),
        labels=service.labels,
        ports=tuple(_workload_port(service, port, mesh, policies) for port in service.ports),
    )


def _workload_port(
    service: LocalService,
    port: ServicePort,
    mesh: MeshSettings,
    policies: Sequence[PeerAuthentication],
) -> WorkloadPort:
    mode = effective_mode(
        policies,
        namespace=service.namespace,
        labels=service.labels,
        target_port=port.target,
        root_namespace=mesh.root_namespace,
    )
    return WorkloadPort(port.port, service.address, port.target, port.protocol, mode)


def _unknown_user(service: LocalService) -> Problem:
    return Problem(
        service.position,
        "user",
        f"user {service.user!r} of service {service.namespace}/{service.name} is unknown here",
        "create the user, or name the one that runs the application",
        "unknown-user",
        Severity.WARNING,
    )


# -- listeners ----------------------------------------------------------------

_Wanted = tuple[ListenerSpec, LocalService | None]


def _listeners(
    parts: HostParts,
    services: Sequence[LocalService],
    mesh: MeshSettings,
    edge: Edge,
    upstreams: Upstreams,
) -> Iterator[_Wanted]:
    """In order of importance: an earlier one keeps its address against a later."""
    if parts.mesh_port is not None:
        yield ListenerSpec("mesh", "mesh", parts.address, parts.mesh_port), None
    if parts.proxy is not None:
        yield ListenerSpec("proxy", "proxy", *parts.proxy), None
    for listener in edge.listeners:
        yield listener, None
    for service in services:
        yield from _upstreams(service, mesh, upstreams)
        yield from _capture(service)
    for service in services:
        yield from _plain(service, parts.address)


def upstream_target(service: LocalService, upstream: Upstream, mesh: MeshSettings) -> Target:
    """(full host, port) that an explicit local port is for."""
    return qualify(upstream.host, service.namespace, mesh.domain), upstream.port


def _upstreams(
    service: LocalService, mesh: MeshSettings, upstreams: Upstreams
) -> Iterator[_Wanted]:
    for upstream in service.upstreams:
        target = upstream_target(service, upstream, mesh)
        spec = ListenerSpec(
            f"local|{upstream.listen}",
            "local",
            *_address(upstream.listen),
            upstream=target,
            owner=workload_id(service),
            protocol=accepts(upstreams.get(target) or upstream.protocol or "HTTP"),
        )
        yield spec, service


def _capture(service: LocalService) -> Iterator[_Wanted]:
    if service.capture:
        ident, owner = f"capture|{service.capture}", workload_id(service)
        where = _address(service.capture)
        yield ListenerSpec(ident, "capture", *where, owner=owner, protocol="AUTO"), service


def _address(listen: str) -> tuple[str, int]:
    address, _, port = listen.rpartition(":")
    return address.strip("[]"), int(port)


def _plain(service: LocalService, address: str) -> Iterator[_Wanted]:
    name = f"{service.namespace}/{service.name}"
    for port in service.ports:
        own = port.target == port.port and service.address in (address, *_EVERYWHERE)
        if not own:  # else the application listens there
            spec = ListenerSpec(
                f"plain|{name}|{port.port}",
                "plain",
                address,
                port.port,
                service=name,
                service_port=port.port,
                protocol=_plain_protocol(port.protocol),
            )
            yield spec, service


def _plain_protocol(protocol: str) -> Accepts:
    """Inbound no server name routes: a ClientHello is bytes like others."""
    accepted = accepts(protocol)
    return "TCP" if accepted == "TLS" else accepted


def _contradictions(
    services: Iterable[LocalService], mesh: MeshSettings, upstreams: Upstreams
) -> Iterator[Problem]:
    for service in services:
        for upstream in service.upstreams:
            host, port = target = upstream_target(service, upstream, mesh)
            found = upstreams.get(target)
            if found and upstream.protocol and accepts(found) != accepts(upstream.protocol):
                yield Problem(
                    upstream.position,
                    "upstreams.protocol",
                    f"port {port} of {host} is {found}, so it is not taken as {upstream.protocol}",
                    "remove the upstream's protocol, or correct the service's",
                    "conflict",
                    Severity.WARNING,
                )


def _distinct(wanted: Iterable[_Wanted]) -> tuple[list[ListenerSpec], list[Problem]]:
    """One listener an address and port; instances of one service share theirs."""
    taken: dict[tuple[str, int], ListenerSpec] = {}
    problems = []
    for spec, service in wanted:
        holder = taken.setdefault((spec.address, spec.port), spec)
        if holder is not spec and holder != spec and service is not None:
            problems.append(_taken(spec, holder, service))
    return list(taken.values()), problems


def _taken(spec: ListenerSpec, holder: ListenerSpec, service: LocalService) -> Problem:
    return Problem(
        service.position,
        "upstreams" if spec.kind == "local" else "ports",
        f"{spec.address}:{spec.port} is listener {holder.id} already, so {spec.id} is not opened",
        "choose another port for one of them",
        "conflict",
        Severity.WARNING,
    )
