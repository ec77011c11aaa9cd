"""All resources together with the services that are known: what checks look things up in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from meshkit.model.problems import Position, Problem, Severity
from meshkit.model.protocols import normal
from meshkit.model.report import near
from meshkit.model.resources import DestinationRule, Gateway, Meta, Resource, ServiceEntry
from meshkit.names import MeshSettings, ServiceName, host_of, qualify, service_of

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Known:
    """What the checker knows of the mesh: services, each with its ports and their protocols.

    ``complete``: a service that is not here does not exist (a check against the
    live registry).  Otherwise it may still be registered, and its absence is only
    a warning.
    """

    mesh: MeshSettings
    services: Mapping[ServiceName, Mapping[int, str]]
    complete: bool = False


MAX_SUGGESTIONS = 20


def wildcards(host: str) -> Iterator[str]:
    """``a.b.c`` → ``*.b.c``, ``*.c``, ``*``: the patterns that cover it, longest first."""
    rest = host.partition(".")[2]
    while rest:
        yield f"*.{rest}"
        rest = rest.partition(".")[2]
    yield "*"


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
        self.hosts: dict[str, dict[int, str]] = {
            host_of(service, self.domain): {n: normal(p) for n, p in ports.items()}
            for service, ports in known.services.items()
        }
        self._wildcards: dict[str, dict[int, str]] = {}
        for entry in self.of(ServiceEntry):
            ports = {port.number: port.protocol for port in entry.ports}
            for host in entry.hosts:
                held = self._wildcards if host.startswith("*") else self.hosts
                held[host] = {**ports, **held.get(host, {})}
        self.gateways = {f"{g.meta.namespace}/{g.meta.name}": g for g in self.of(Gateway)}
        self._rules = self._index_rules()
        self._suggestions: dict[tuple[str, str], str] = {}

    def _index_rules(self) -> dict[str, dict[str, list[DestinationRule]]]:
        """namespace → full host or wildcard → rules, the oldest first."""
        index: dict[str, dict[str, list[DestinationRule]]] = defaultdict(dict)
        for rule in sorted(self.of(DestinationRule), key=age):
            pattern = self.full(rule.host, rule.meta)
            index[rule.meta.namespace].setdefault(pattern, []).append(rule)
        return index

    @property
    def domain(self) -> str:
        return self.known.mesh.domain

    def of(self, kind: type[R]) -> list[R]:
        return [resource for resource in self.resources if isinstance(resource, kind)]

    def full(self, host: str, meta: Meta) -> str:
        """The host as the rule means it: a short name is in the rule's namespace."""
        return qualify(host, meta.namespace, self.domain)

    def ports(self, host: str) -> Mapping[int, str] | None:
        """Port numbers of a full host and their protocols; None where nobody declares it."""
        if host in self.hosts:
            return self.hosts[host]
        matching = (each for each in wildcards(host) if each in self._wildcards)
        return next((self._wildcards[each] for each in matching), None)

    def rules(self, host: str, namespace: str) -> list[DestinationRule]:
        """The DestinationRules of a namespace that apply to a full host.

        Those of the exact host, else of the longest wildcard (istio-semantics 2).
        """
        by_pattern = self._rules.get(namespace, {})
        if host in by_pattern:
            return by_pattern[host]
        return next((by_pattern[each] for each in wildcards(host) if each in by_pattern), [])

    def lookup_namespaces(self, host: str, meta: Meta) -> list[str]:
        """Where DestinationRules of a host are looked for: client, service, root."""
        service = service_of(host, self.domain)
        middle = [service.namespace] if service else []
        return list(dict.fromkeys([meta.namespace, *middle, self.known.mesh.root_namespace]))

    def suggest(self, host: str, meta: Meta) -> str:
        """A remedy for a host that nobody declares."""
        key = (host, meta.namespace)
        if key not in self._suggestions:
            # Comparing with every host costs milliseconds; a broken bundle has thousands.
            found = self._similar(host) if len(self._suggestions) < MAX_SUGGESTIONS else None
            self._suggestions[key] = self._remedy(found, meta)
        return self._suggestions[key]

    def _similar(self, host: str) -> str | None:
        completed = f"{host}.{self.domain}"
        if completed in self.hosts:
            return completed
        service = service_of(host, self.domain)
        for other in self.hosts:
            there = service_of(other, self.domain)
            if service is not None and there is not None and there.name == service.name:
                return other
        return near(host, self.hosts)

    def _remedy(self, host: str | None, meta: Meta) -> str:
        if host is None:
            return "declare the service on its host, or write a ServiceEntry"
        service = service_of(host, self.domain)
        local = service is not None and service.namespace == meta.namespace
        return f'did you mean "{service.name if service and local else host}"?'

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
