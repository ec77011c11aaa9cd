"""The tables that routes are made from, kept from one compilation to the next.

Invariant: what did not change stays the *same object*, whatever the caller
handed in anew.  The compiler can then tell by identity what is still valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import TypeVar

from meshkit.identity.spiffe import SpiffeError
from meshkit.model.gateway_name import MESH
from meshkit.model.problems import Problem, Severity
from meshkit.model.resources import (
    DestinationRule,
    Resource,
    ServiceEntry,
    VirtualService,
    WorkloadEntry,
)
from meshkit.names import MeshSettings, ServiceName, qualify
from meshkit.routing.age import by_age
from meshkit.routing.edge import Bound
from meshkit.routing.inputs import Inputs, InstanceLike, NamingLike
from meshkit.routing.names import intersection, most_specific
from meshkit.routing.rules import MAX_REMEMBERED, RuleIndex
from meshkit.routing.services import Service, from_discovery, from_entry

R = TypeVar("R")

Known = tuple[NamingLike | None, Sequence[InstanceLike], Service]


@dataclass(slots=True)
class World:
    """One mesh, of settings that never change.  `update` brings it to new inputs."""

    mesh: MeshSettings = field(default_factory=MeshSettings)
    resources: tuple[Resource, ...] = ()
    services: Mapping[str, Service] = field(default_factory=dict)
    """Full host name → service."""
    virtuals: Mapping[str, VirtualService] = field(default_factory=dict)
    """Host or wildcard → the VirtualService in force for callers in the mesh."""
    rules: RuleIndex = field(default_factory=lambda: RuleIndex((), "", ""))
    problems: list[Problem] = field(default_factory=list)
    _entries: Mapping[str, Service] = field(default_factory=dict)
    _known: dict[ServiceName, Known] = field(default_factory=dict)
    _given: tuple[Resource, ...] | None = None
    _chosen: dict[str, VirtualService | None] = field(default_factory=dict)

    def update(self, inputs: Inputs) -> None:
        self.mesh = inputs.mesh
        if self._given is not inputs.resources:
            self._given = inputs.resources
            self._take(_interned(self.resources, inputs.resources))
        self.services = self._services(inputs)

    # -- resources ------------------------------------------------------------

    def _take(self, resources: tuple[Resource, ...]) -> None:
        before, self.resources = self.resources, resources
        domain, root = self.mesh.domain, self.mesh.root_namespace
        self.virtuals = {
            host: first for host, (first, *_) in self.bound_to(MESH).items() if host != "*"
        }
        rules = _of(resources, DestinationRule)
        if rules != _of(before, DestinationRule) or not self.rules.serves(domain, root):
            self.rules = RuleIndex(rules, domain, root, self.rules)
        self._chosen = {}
        self.problems = []
        self._entries = self._from_entries()

    def virtual(self, host: str) -> VirtualService | None:
        """The VirtualService that acts on ``host`` in the mesh."""
        if host not in self._chosen:
            if len(self._chosen) > MAX_REMEMBERED:
                self._chosen.clear()
            self._chosen[host] = most_specific(self.virtuals, host)
        return self._chosen[host]

    def protocol(self, host: str, port: int) -> str:
        """What a port of a host speaks, by its service, else by its rules; "" = unknown."""
        service = self.services.get(host)
        named = service.port(port) if service is not None else None
        if named is not None:
            return named.protocol
        virtual = self.virtual(host) if service is None else None
        if virtual is None or virtual.http:
            return "HTTP" if virtual is not None else ""
        return "TLS" if virtual.tls and not virtual.tcp else "TCP"

    def bound_to(self, gateway: str) -> dict[str, tuple[VirtualService, ...]]:
        """Host → VirtualServices that bind to ``gateway`` (``mesh`` or ns/name), oldest first."""
        table: dict[str, tuple[VirtualService, ...]] = {}
        for virtual in by_age(_of(self.resources, VirtualService)):
            if gateway in virtual.gateways:
                for host in virtual.hosts:
                    name = qualify(host, virtual.meta.namespace, self.mesh.domain).lower()
                    table[name] = (*table.get(name, ()), virtual)
        return table

    def behind(self, bound: Bound) -> dict[str, tuple[VirtualService, ...]]:
        """Host → VirtualServices of one gateway server: both bind and overlap in host.

        Where no name tells connections apart (bytes), the one host is ``*``.
        """
        meta = bound.gateway.meta
        table: dict[str, tuple[VirtualService, ...]] = {}
        for name, virtuals in self.bound_to(f"{meta.namespace}/{meta.name}").items():
            for pattern in bound.server.hosts:
                namespace, _, dns = pattern.rpartition("/")
                host = intersection(name, dns.lower())
                if host is None:
                    continue
                admitted = [v for v in virtuals if _admits(namespace, meta.namespace, v)]
                if admitted:
                    host = "*" if bound.server.carries == "tcp" else host
                    both = {v.meta.key: v for v in (*table.get(host, ()), *admitted)}
                    table[host] = tuple(by_age(both.values()))
        return table

    def _from_entries(self) -> dict[str, Service]:
        workloads = _of(self.resources, WorkloadEntry)
        services: dict[str, Service] = {}
        for entry in by_age(_of(self.resources, ServiceEntry)):
            try:
                found = list(from_entry(entry, workloads, self.mesh))
            except SpiffeError as error:
                self._refuse(entry, "invalid", str(error), "correct its service accounts")
                continue
            for service in found:
                host = service.host.lower()
                if host in services:
                    self._refuse(entry, "conflict", f"host {host} is an older entry's", "drop one")
                    continue
                old = self._entries.get(host)
                services[host] = old if old is not None and old == service else service
        return services

    def _refuse(self, entry: ServiceEntry, code: str, message: str, remedy: str) -> None:
        meta, text = entry.meta, f"{entry.meta.key}: {message}"
        self.problems.append(Problem(meta.position, "spec", text, remedy, code, Severity.WARNING))

    # -- services -------------------------------------------------------------

    def _services(self, inputs: Inputs) -> dict[str, Service]:
        """Believed least first, so that what is believed more overwrites it."""
        naming, instances = inputs.naming, inputs.instances
        alone = [
            self._service(name, None, found)
            for name, found in instances.items()
            if name not in naming and found
        ]
        named = [
            self._service(name, known, instances.get(name, ())) for name, known in naming.items()
        ]
        services = {service.host: service for service in alone}
        services.update(self._entries)
        services.update((service.host, service) for service in named)
        if len(self._known) > len(alone) + len(named):
            live = naming.keys() | instances.keys()
            self._known = {name: held for name, held in self._known.items() if name in live}
        return services

    def _service(
        self, name: ServiceName, naming: NamingLike | None, instances: Sequence[InstanceLike]
    ) -> Service:
        known = self._known.get(name)
        if known is not None and _same(known[0], naming) and _same(known[1], instances):
            return known[2]
        service = from_discovery(name, naming, instances, self.mesh)
        if known is not None and known[2] == service:
            service = known[2]
        self._known[name] = (naming, instances, service)
        return service


def _same(old: object, new: object) -> bool:
    return old is new or old == new


def _of(resources: Iterable[Resource], kind: type[R]) -> list[R]:
    return [item for item in resources if isinstance(item, kind)]


def _interned(old: tuple[Resource, ...], new: Iterable[Resource]) -> tuple[Resource, ...]:
    """``new`` with the objects of ``old`` wherever they are equal."""
    known = {item.meta.key: item for item in old}
    result = []
    for item in new:
        held = known.get(item.meta.key)
        result.append(held if held is not None and _same(held, item) else item)
    unchanged = len(old) == len(result) and all(map(is_, old, result))
    return old if unchanged else tuple(result)


def _admits(wanted: str, gateway: str, virtual: VirtualService) -> bool:
    """The namespace part of a server's host: none and ``*`` admit all, ``.`` the gateway's."""
    return wanted in ("", "*") or virtual.meta.namespace == (gateway if wanted == "." else wanted)
