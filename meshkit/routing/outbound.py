"""One host as one scope sees it: its routes by port and the clusters they name.

The compiler asks `View` for everything, so that it can remember what an answer
depended on.  A VirtualService that cannot be compiled has no effect (`Unusable`
carries the finding); the host then has its default route, as if the resource had
been refused at the door.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from meshkit.model.problems import NOWHERE, Problem, Severity
from meshkit.model.resources import HTTPMatch, HTTPRoute, Meta, RouteDestination, VirtualService
from meshkit.names import qualify
from meshkit.routing.clusters import cluster_name, make_cluster
from meshkit.routing.names import HTTP_PROTOCOLS
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
from meshkit.snapshot.types import Cluster, Destination, OutboundHost, Route

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
        """A host for callers in the mesh: the rules' routes, else the service's own."""
        ports: dict[int, tuple[Route, ...]] = {}
        try:
            if virtual is not None:
                for port in self._listener_ports(service, virtual):
                    ports[port] = tuple(self.routes(virtual, port))
        except Unusable as error:
            self._refuse(error)
            virtual = None
        if virtual is None and service is not None:
            for port in _http_ports(service):
                ports[port] = (self._default_route(service, port),)
        return self._finish(host, service, virtual, ports)

    def edge_host(
        self, host: str, virtuals: Sequence[VirtualService], port: int
    ) -> OutboundHost | None:
        """A host behind a gateway's server on ``port``: its rules merged, oldest first.

        ⚠ Catch-alls go last, whoever's they are (istio-semantics 1.1).
        """
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
        return self._finish(host, None, virtuals[0], {ANY_PORT: tuple(routes)})

    def _refuse(self, error: Unusable) -> None:
        self.problems.append(error.problem)

    def _finish(
        self,
        host: str,
        service: Service | None,
        virtual: VirtualService | None,
        ports: dict[int, tuple[Route, ...]],
    ) -> OutboundHost:
        used = {d.cluster for routes in ports.values() for r in routes for d in r.destinations}
        clusters = {name: cluster for name, cluster in self.clusters.items() if name in used}
        label, namespace = host, virtual.meta.namespace if virtual is not None else ""
        if service is not None:
            label, namespace = service.label, service.name.namespace
        return OutboundHost(host, label, namespace, ports, clusters)

    # -- ports ----------------------------------------------------------------

    def _listener_ports(self, service: Service | None, virtual: VirtualService) -> list[int]:
        """A host without a service answers on any port, and on each that its targets tell apart."""
        if service is not None:
            return _http_ports(service)
        ports = {ANY_PORT}
        for destination in (d for route in virtual.http for d in route.route):
            target = self._view.service(self._host(destination, virtual))
            if destination.port is None and target is not None and len(target.ports) > 1:
                ports.update(_http_ports(target))
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
        self, virtual: VirtualService, rule: HTTPRoute, port: int
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
                "spec.http.route.destination",
                f"{meta.key}: {message}, so its requests are answered 503 NC",
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


def _http_ports(service: Service) -> list[int]:
    return [port.port for port in service.ports if port.protocol.upper() in HTTP_PROTOCOLS]


def _bare(block: HTTPMatch) -> HTTPMatch:
    """Without what only people need, so that it does not change the hash."""
    return replace(block, name="", position=NOWHERE)
