"""One host as one scope sees it: its routes by port and the clusters they name.

The compiler asks `View` for everything, so that it can remember what an answer
depended on.  A VirtualService that cannot be compiled has no effect (`Unusable`
carries the finding); the host then has its default route, as if the resource had
been refused at the door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from meshkit.model.gateway_name import MESH
from meshkit.model.problems import NOWHERE, Problem, Severity
from meshkit.model.resources import (
    HTTPMatch,
    HTTPRoute,
    L4Route,
    Meta,
    RouteDestination,
    VirtualService,
)
from meshkit.names import qualify
from meshkit.routing.clusters import cluster_name, make_cluster
from meshkit.routing.edge import Bound
from meshkit.routing.l4 import kinds_of, rules_for
from meshkit.routing.names import is_http, is_tcp
from meshkit.routing.resolve import (
    Unusable,
    check_patterns,
    destination_port,
    is_catch_all,
    origin,
    retry_policy,
    weighted,
)
from meshkit.routing.rules import Rule
from meshkit.routing.services import Service
from meshkit.snapshot.types import Cluster, Destination, OutboundHost, Route, TCPRoute

ANY_PORT = 0
"""The key of routes that do not depend on the port: gateways, and hosts without a service."""


class View(Protocol):
    """The mesh, as the client of one scope looks at it."""

    domain: str

    def service(self, host: str) -> Service | None:
        """What a full host name stands for."""

    def rule(self, host: str, namespace: str) -> Rule:
        """The DestinationRule in force for a host whose service is in ``namespace``."""


class HostBuilder:
    """Collects the clusters of one host while its routes are made."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.clusters: dict[str, Cluster] = {}
        self.problems: list[Problem] = []

    def mesh_host(
        self, host: str, service: Service | None, virtual: VirtualService | None
    ) -> OutboundHost:
        """A host for callers in the mesh: the rules' routes, else the service's own.

        Where the rules say nothing about a kind of protocol, the service's own stand.
        """
        ports: dict[int, tuple[Route, ...]] = {}
        tcp: dict[int, tuple[TCPRoute, ...]] = {}
        try:
            if virtual is not None:
                ports, tcp = self._http(service, virtual), self._l4(service, virtual)
        except Unusable as error:
            self._refuse(error)
            virtual, ports, tcp = None, {}, {}
        if service is not None:
            self._default(service, ports, tcp)
        return self._finish(host, service, virtual, ports, tcp)

    def _http(
        self, service: Service | None, virtual: VirtualService
    ) -> dict[int, tuple[Route, ...]]:
        if not virtual.http:
            return {}
        ports = self._listener_ports(service, virtual.http, virtual, is_http)
        return {port: tuple(self.routes(virtual, port)) for port in ports}

    def _l4(
        self, service: Service | None, virtual: VirtualService
    ) -> dict[int, tuple[TCPRoute, ...]]:
        rules = (*virtual.tls, *virtual.tcp)
        if not rules:
            return {}
        protocols = {p.port: p.protocol for p in service.ports} if service is not None else {}
        table = {}
        for port in self._listener_ports(service, rules, virtual, is_tcp):
            found = self._l4_routes((virtual,), MESH, port, kinds_of(protocols, port))
            if found:
                table[port] = found
        return table

    def _default(
        self,
        service: Service,
        ports: dict[int, tuple[Route, ...]],
        tcp: dict[int, tuple[TCPRoute, ...]],
    ) -> None:
        """Every port of a service leads somewhere: to the service, if no rule says else."""
        for port in _ports(service, is_http):
            if port not in ports:
                ports[port] = (self._default_route(service, port),)
        for port in _ports(service, is_tcp):
            if port not in tcp:
                to = Destination(self._cluster(service.host, service, port, ""), 1)
                tcp[port] = (TCPRoute("default", (), (to,), "default"),)

    def edge_host(
        self, host: str, virtuals: Sequence[VirtualService], bound: Bound
    ) -> OutboundHost | None:
        """A host behind a gateway's server: the rules of the kind that it carries, merged."""
        meta, port = bound.gateway.meta, bound.server.port.number
        gateway = f"{meta.namespace}/{meta.name}"
        if bound.server.carries == "http":
            return self._edge_http(host, virtuals, port)
        routes: tuple[TCPRoute, ...] = ()
        try:
            routes = self._l4_routes(virtuals, gateway, port, (bound.server.carries,))
        except Unusable as error:
            self._refuse(error)
        return self._finish(host, None, virtuals[0], {}, {ANY_PORT: routes}) if routes else None

    def _edge_http(
        self, host: str, virtuals: Sequence[VirtualService], port: int
    ) -> OutboundHost | None:
        """Oldest first; ⚠ catch-alls last, whoever's they are (istio-semantics 1.1)."""
        routes: list[Route] = []
        for virtual in virtuals:
            try:
                routes += list(self.routes(virtual, port))
            except Unusable as error:
                self._refuse(error)
        if len(virtuals) > 1:
            routes.sort(key=is_catch_all)
        if not routes:
            return None
        return self._finish(host, None, virtuals[0], {ANY_PORT: tuple(routes)}, {})

    def _refuse(self, error: Unusable) -> None:
        self.problems.append(error.problem)

    def _finish(
        self,
        host: str,
        service: Service | None,
        virtual: VirtualService | None,
        ports: Mapping[int, tuple[Route, ...]],
        tcp: Mapping[int, tuple[TCPRoute, ...]],
    ) -> OutboundHost:
        used = {d.cluster for routes in ports.values() for r in routes for d in r.destinations}
        used |= {d.cluster for routes in tcp.values() for r in routes for d in r.destinations}
        clusters = {name: cluster for name, cluster in self.clusters.items() if name in used}
        label, namespace = host, virtual.meta.namespace if virtual is not None else ""
        if service is not None:
            label, namespace = service.label, service.name.namespace
        return OutboundHost(host, label, namespace, ports, clusters, tcp)

    # -- ports ----------------------------------------------------------------

    def _listener_ports(
        self,
        service: Service | None,
        rules: Iterable[HTTPRoute | L4Route],
        virtual: VirtualService,
        wanted: Callable[[str], bool],
    ) -> list[int]:
        """A host without a service answers on any port, and on each that its rules tell apart."""
        if service is not None:
            return _ports(service, wanted)
        ports = {ANY_PORT}
        for rule in rules:
            if isinstance(rule, L4Route):
                ports.update(match.port for match in rule.match if match.port is not None)
            for destination in rule.route:
                target = self._view.service(self._host(destination, virtual))
                if destination.port is None and target is not None and len(target.ports) > 1:
                    ports.update(_ports(target, wanted))
        return sorted(ports)

    def _host(self, destination: RouteDestination, virtual: VirtualService) -> str:
        """⚠ A short name is completed with the namespace of the rule."""
        return qualify(destination.host, virtual.meta.namespace, self._view.domain).lower()

    # -- routes ---------------------------------------------------------------

    def _default_route(self, service: Service, port: int) -> Route:
        cluster = self._cluster(service.host, service, port, "")
        return Route("default", (), (Destination(cluster, 1),), origin="default")

    def routes(self, virtual: VirtualService, port: int) -> Iterator[Route]:
        """The rules of ``virtual`` for requests to ``port``; each match block is a route."""
        for rule in virtual.http:
            whole = self._route(virtual, rule, port)
            if not rule.match:
                yield whole
            for block in rule.match:
                check_patterns(virtual.meta, block)
                name = f"{rule.name}.{block.name}" if block.name else rule.name
                yield replace(whole, name=name, match=(_bare(block),))

    def _l4_routes(
        self, virtuals: Sequence[VirtualService], gateway: str, port: int, kinds: Iterable[str]
    ) -> tuple[TCPRoute, ...]:
        return tuple(
            TCPRoute(
                "",
                names,
                tuple(self._destinations(virtual, rule, port)),
                origin(virtual.meta, rule.position),
            )
            for names, (virtual, rule) in rules_for(virtuals, gateway, port, kinds)
        )

    def _route(self, virtual: VirtualService, rule: HTTPRoute, port: int) -> Route:
        return Route(
            name=rule.name,
            match=(),
            destinations=tuple(self._destinations(virtual, rule, port)),
            timeout=rule.timeout or None,
            retry=retry_policy(rule.retries),
            request_headers=rule.headers.request,
            response_headers=rule.headers.response,
            origin=origin(virtual.meta, rule.position),
        )

    def _destinations(
        self, virtual: VirtualService, rule: HTTPRoute | L4Route, port: int
    ) -> Iterator[Destination]:
        for item, weight in weighted(virtual.meta, rule):
            host = self._host(item, virtual)
            yield Destination(
                self._target(virtual.meta, host, item, port),
                weight,
                item.headers.request,
                item.headers.response,
            )

    def _target(self, meta: Meta, host: str, item: RouteDestination, port: int) -> str:
        """The cluster's name; a target that does not exist is named, not made (503 NC)."""
        service = self._view.service(host)
        if service is None:
            self._warn(meta, item, f"no service has the host {host}", "unknown-host")
            return cluster_name(host, item.port or port, item.subset)
        number = destination_port(item.port, service, port)
        if service.port(number) is None:
            self._warn(meta, item, f"{host} has no port {number}", "unknown-port")
            return cluster_name(host, number, item.subset)
        return self._cluster(host, service, number, item.subset, meta, item)

    def _warn(self, meta: Meta, item: RouteDestination, message: str, code: str) -> None:
        self.problems.append(
            Problem(
                item.position,
                "destination",
                f"{meta.key}: {message}, so what is routed there fails: NC (requests: 503)",
                "correct the destination, or add what it names",
                code,
                Severity.WARNING,
            )
        )

    # -- clusters -------------------------------------------------------------

    def _cluster(
        self,
        host: str,
        service: Service,
        port: int,
        subset: str,
        meta: Meta | None = None,
        item: RouteDestination | None = None,
    ) -> str:
        name = cluster_name(host, port, subset)
        if name in self.clusters:
            return name
        rule = self._view.rule(host, service.name.namespace)
        if subset and subset not in rule.subsets:
            if meta is not None and item is not None:
                self._warn(meta, item, f"{host} has no subset {subset}", "unknown-subset")
            return name
        cluster, problems = make_cluster(name, service, port, subset, rule, self._view.domain)
        self.clusters[name] = cluster
        self.problems += problems
        return name


def _ports(service: Service, wanted: Callable[[str], bool]) -> list[int]:
    return [port.port for port in service.ports if wanted(port.protocol)]


def _bare(block: HTTPMatch) -> HTTPMatch:
    """Without what only people need, so that it does not change the hash."""
    return replace(block, name="", position=NOWHERE)
