"""All resources together with the services that are known: what checks look things up in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from meshkit.model.dns import covers
from meshkit.model.problems import Position, Problem, Severity
from meshkit.model.report import near
from meshkit.model.resources import DestinationRule, Gateway, Meta, Resource, ServiceEntry
from meshkit.names import MeshSettings, ServiceName, host_of, qualify, service_of

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Known:
    """What the checker knows of the mesh: services, each with its port numbers.

    ``complete``: a service that is not here does not exist (a check against the
    live registry).  Otherwise it may still be registered, and its absence is only
    a warning.
    """

    mesh: MeshSettings
    services: Mapping[ServiceName, tuple[int, ...]]
    complete: bool = False


def age(resource: Resource) -> tuple[float, str, str]:
    """Sorts the oldest first; what was never applied is the newest."""
    meta = resource.meta
    return (meta.created or float("inf"), meta.namespace, meta.name)


class World:
    """The resources by kind, the hosts by name, and the problems found so far."""

    def __init__(self, resources: Iterable[Resource], known: Known) -> None:
        self.resources = tuple(resources)
        self.known = known
        self.problems: list[Problem] = []
        self.hosts: dict[str, set[int]] = {
            host_of(service, self.domain): set(ports) for service, ports in known.services.items()
        }
        self._wildcards: dict[str, set[int]] = defaultdict(set)
        for entry in self.of(ServiceEntry):
            ports = {port.number for port in entry.ports}
            for host in entry.hosts:
                held = self._wildcards if host.startswith("*") else self.hosts
                held.setdefault(host, set()).update(ports)
        self.gateways = {f"{g.meta.namespace}/{g.meta.name}": g for g in self.of(Gateway)}
        self._rules: dict[str, list[DestinationRule]] = defaultdict(list)
        for rule in sorted(self.of(DestinationRule), key=age):
            self._rules[rule.meta.namespace].append(rule)

    @property
    def domain(self) -> str:
        return self.known.mesh.domain

    def of(self, kind: type[R]) -> list[R]:
        return [resource for resource in self.resources if isinstance(resource, kind)]

    def full(self, host: str, meta: Meta) -> str:
        """The host as the rule means it: a short name is in the rule's namespace."""
        return qualify(host, meta.namespace, self.domain)

    def ports(self, host: str) -> set[int] | None:
        """Port numbers of a full host; None where nobody declares it."""
        if host in self.hosts:
            return self.hosts[host]
        matching = [each for each in self._wildcards if covers(each, host)]
        return self._wildcards[max(matching, key=len)] if matching else None

    def rules(self, host: str, namespace: str) -> list[DestinationRule]:
        """The DestinationRules of a namespace that apply to a full host.

        Those of the exact host, else of the longest wildcard (istio-semantics 2).
        """
        by_host: dict[str, list[DestinationRule]] = defaultdict(list)
        for rule in self._rules.get(namespace, ()):
            pattern = self.full(rule.host, rule.meta)
            if covers(pattern, host):
                by_host[pattern].append(rule)
        if host in by_host:
            return by_host[host]
        return by_host[max(by_host, key=len)] if by_host else []

    def lookup_namespaces(self, host: str, meta: Meta) -> list[str]:
        """Where DestinationRules of a host are looked for: client, service, root."""
        service = service_of(host, self.domain)
        middle = [service.namespace] if service else []
        return list(dict.fromkeys([meta.namespace, *middle, self.known.mesh.root_namespace]))

    def suggest(self, host: str, meta: Meta) -> str:
        """A remedy for a host that nobody declares."""
        service = service_of(host, self.domain)
        if service is not None:
            for other in self.hosts:
                there = service_of(other, self.domain)
                if there is not None and there.name == service.name:
                    return f"it exists in namespace {there.namespace}: write {other}"
        close = near(host, self.hosts)
        if close is None and "." in host and f"{host}.{self.domain}" in self.hosts:
            close = f"{host}.{self.domain}"
        if close is None:
            return "declare the service on its host, or write a ServiceEntry"
        found = service_of(close, self.domain)
        local = found is not None and found.namespace == meta.namespace
        return f'did you mean "{found.name if found and local else close}"?'

    @property
    def doubt(self) -> Severity:
        """How bad it is that a service is not known."""
        return Severity.ERROR if self.known.complete else Severity.WARNING

    def add(
        self,
        where: Position,
        field: str,
        message: str,
        remedy: str,
        code: str,
        severity: Severity = Severity.ERROR,
    ) -> None:
        self.problems.append(Problem(where, field, message, remedy, code, severity))

    def warn(self, where: Position, field: str, message: str, remedy: str, code: str) -> None:
        self.add(where, field, message, remedy, code, Severity.WARNING)
