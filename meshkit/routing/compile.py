"""From everything that is known to the snapshot that workers run.

A compilation goes through every host of every scope, so it must be nearly free
where nothing changed: at 2,000 services one endpoint moves many times a second.
Each host's blob is kept together with what it was made from (its service, its
VirtualServices, and every other service and rule that was looked up on the way).
While all of these are still the same objects, the blob is still right; `World`
sees to it that what did not change stays the same object.

Nothing here depends on the order in which independent resources, services or
instances are given: equal inputs give equal hashes on every host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import is_

from meshkit.model.problems import Problem
from meshkit.model.resources import LocalService, Resource, VirtualService
from meshkit.routing.capture import address_table
from meshkit.routing.edge import Bound, Edge, plan_edge
from meshkit.routing.host_config import Upstreams, host_config, upstream_target
from meshkit.routing.inputs import GatewayParts, HostParts, Inputs
from meshkit.routing.outbound import HostBuilder
from meshkit.routing.rules import Rule, RuleIndex
from meshkit.routing.services import Service
from meshkit.routing.world import World
from meshkit.snapshot.codec import canonical, content_hash, encode
from meshkit.snapshot.types import ADDRESSES, OutboundHost, Snapshot


@dataclass(slots=True)
class _Blob:
    """A compiled host and what it was made from; ``digest`` "" = nothing to serve."""

    digest: str
    data: bytes
    problems: tuple[Problem, ...]
    service: Service | None
    virtuals: tuple[VirtualService, ...]
    services: tuple[tuple[str, Service | None], ...]
    rules: tuple[tuple[str, str, Rule], ...]
    index: RuleIndex
    """The rules as a whole: while they are the same, no single one need be compared."""


class _Recorder:
    """The `View` of one scope; remembers what was asked."""

    def __init__(self, world: World, client: str) -> None:
        self.domain = world.mesh.domain
        self._world = world
        self._client = client
        self.services: dict[str, Service | None] = {}
        self.rules: dict[tuple[str, str], Rule] = {}

    def service(self, host: str) -> Service | None:
        found = self.services[host] = self._world.services.get(host)
        return found

    def rule(self, host: str, namespace: str) -> Rule:
        found = self._world.rules.find(self._client, namespace, host)
        self.rules[host, namespace] = found
        return found


@dataclass(slots=True)
class _Addresses:
    """The last address table and what it was made from."""

    services: tuple[Service, ...] = ()
    digest: str = ""
    data: bytes = b""
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Host:
    """The last HostConfig blob and what it was made from."""

    parts: HostParts
    resources: tuple[Resource, ...]
    upstreams: Upstreams
    digest: str
    data: bytes
    problems: tuple[Problem, ...]


class Compiler:
    """Keeps what it made; one for the life of an agent.

    After `compile`, ``problems`` says what could not take effect and why, and
    ``edge`` which gateway servers run (`edge_certificates` names their files).
    """

    def __init__(self) -> None:
        self.problems: tuple[Problem, ...] = ()
        self.edge = Edge()
        self._world = World()
        self._blobs: dict[str, dict[str, _Blob]] = {}
        self._scopes: dict[str, dict[str, str]] = {}
        self._host: _Host | None = None
        self._addresses = _Addresses()
        self._behind: dict[str, dict[str, tuple[VirtualService, ...]]] = {}
        self._planned: tuple[object, object] = (None, None)

    def compile(self, inputs: Inputs) -> Snapshot:
        """The snapshot for ``inputs``.  One bad resource never spoils the rest."""
        if inputs.mesh != self._world.mesh:
            self._forget()
        self._world.update(inputs)
        self._plan(inputs.host.gateway)
        blobs = dict(self._all_scopes(inputs))
        scopes = {scope: _digests(hosts) for scope, hosts in blobs.items()}
        captured = self._captured(inputs.host.services)
        for scope in captured:
            scopes[scope][ADDRESSES] = self._addresses.digest
        self._blobs = blobs
        self._scopes = {
            scope: _kept(self._scopes.get(scope), hosts) for scope, hosts in scopes.items() if hosts
        }
        host = self._host_blob(inputs.host)
        self.problems = self._found(host, blobs.values())
        data = {b.digest: b.data for hosts in blobs.values() for b in hosts.values() if b.digest}
        data[host.digest] = host.data
        if captured:
            data[self._addresses.digest] = self._addresses.data
        return Snapshot(self._revision(host.digest), host.digest, self._scopes, data)

    def _forget(self) -> None:
        """Another mesh: every name and identity differs."""
        self._world, self._blobs = World(), {}
        self._host, self._planned = None, (None, None)

    def _plan(self, gateway: GatewayParts | None) -> None:
        wanted = (self._world.resources, gateway)
        if self._planned[0] is not wanted[0] or self._planned[1] != gateway:
            self._planned = wanted
            self.edge = plan_edge(self._world.resources, gateway)
            self._behind = {bound.scope: self._world.behind(bound) for bound in self.edge.bound}

    def _found(self, host: _Host, scopes: Iterable[Mapping[str, _Blob]]) -> tuple[Problem, ...]:
        """Each finding once, though several scopes and ports meet it."""
        found = dict.fromkeys(
            (
                *self._world.problems,
                *self.edge.problems,
                *host.problems,
                *self._addresses.problems,
            )
        )
        for hosts in scopes:
            for blob in hosts.values():
                if blob.problems:
                    found.update(dict.fromkeys(blob.problems))
        return tuple(found)

    # -- scopes ---------------------------------------------------------------

    def _all_scopes(self, inputs: Inputs) -> Iterator[tuple[str, dict[str, _Blob]]]:
        namespaces = inputs.scopes | {service.namespace for service in inputs.host.services}
        for namespace in sorted(namespaces):
            yield namespace, self._mesh_scope(namespace)
        gateway = inputs.host.gateway
        if gateway is not None:
            for bound in self.edge.bound:
                yield bound.scope, self._edge_scope(bound, gateway.namespace)

    def _mesh_scope(self, namespace: str) -> dict[str, _Blob]:
        world, old = self._world, self._blobs.get(namespace, {})
        services, virtuals = world.services, world.virtuals
        blobs = {}
        for host in (*services, *(host for host in virtuals if host not in services)):
            service = services.get(host)
            virtual = world.virtual(host)
            found = () if virtual is None else (virtual,)
            blob = old.get(host)
            if blob is None or not self._valid(blob, service, found, namespace):
                recorder = _Recorder(world, namespace)
                builder = HostBuilder(recorder)
                outbound = builder.mesh_host(host, service, virtual)
                blob = _made(outbound, builder, recorder, service, found, world.rules)
            blobs[host] = blob
        return blobs

    def _edge_scope(self, bound: Bound, client: str) -> dict[str, _Blob]:
        world, old = self._world, self._blobs.get(bound.scope, {})
        blobs = {}
        for host, virtuals in self._behind[bound.scope].items():
            blob = old.get(host)
            if blob is None or not self._valid(blob, None, virtuals, client):
                recorder = _Recorder(world, client)
                builder = HostBuilder(recorder)
                outbound = builder.edge_host(host, virtuals, bound)
                blob = _made(outbound, builder, recorder, None, virtuals, world.rules)
            blobs[host] = blob
        return blobs

    def _valid(
        self,
        blob: _Blob,
        service: Service | None,
        virtuals: tuple[VirtualService, ...],
        client: str,
    ) -> bool:
        if blob.service is not service or blob.virtuals != virtuals:
            return False
        services, rules = self._world.services, self._world.rules
        for host, found in blob.services:
            if services.get(host) is not found:
                return False
        if blob.index is not rules:
            for host, namespace, rule in blob.rules:
                if rules.find(client, namespace, host) is not rule:
                    return False
            blob.index = rules
        return True

    # -- the host and the revision --------------------------------------------

    def _captured(self, local: Iterable[LocalService]) -> set[str]:
        """The scopes whose callers are captured; brings the address table up to date for them."""
        scopes = {service.namespace for service in local if service.capture}
        services = tuple(self._world.services.values()) if scopes else ()
        held = self._addresses.services
        if len(held) != len(services) or not all(map(is_, held, services)):
            table, problems = address_table(services)
            data = encode(table)
            self._addresses = _Addresses(services, content_hash(data), data, problems)
        return scopes

    def _upstreams(self, parts: HostParts) -> Upstreams:
        """What the targets of explicit local ports are known to speak."""
        found = {}
        for service in parts.services:
            for upstream in service.upstreams:
                target = upstream_target(service, upstream, self._world.mesh)
                protocol = self._world.protocol(*target)
                if protocol:
                    found[target] = protocol
        return found

    def _host_blob(self, parts: HostParts) -> _Host:
        world, held, upstreams = self._world, self._host, self._upstreams(parts)
        if (
            held is not None
            and held.parts == parts
            and held.resources is world.resources
            and held.upstreams == upstreams
        ):
            return held
        config, problems = host_config(parts, world.mesh, world.resources, self.edge, upstreams)
        data = encode(config)
        self._host = _Host(parts, world.resources, upstreams, content_hash(data), data, problems)
        return self._host

    def _revision(self, host: str) -> str:
        """A hash over everything: equal snapshots have equal revisions, wherever compiled."""
        return content_hash(canonical([host, self._scopes]))


def _digests(hosts: Mapping[str, _Blob]) -> dict[str, str]:
    return {host: blob.digest for host, blob in hosts.items() if blob.digest}


def _kept(old: dict[str, str] | None, new: dict[str, str]) -> dict[str, str]:
    """The same object for the same scope: `diff` then need not look into it."""
    return old if old is not None and old == new else new


def _made(
    outbound: OutboundHost | None,
    builder: HostBuilder,
    recorder: _Recorder,
    service: Service | None,
    virtuals: tuple[VirtualService, ...],
    index: RuleIndex,
) -> _Blob:
    data = encode(outbound) if outbound is not None and (outbound.ports or outbound.tcp) else b""
    return _Blob(
        content_hash(data) if data else "",
        data,
        tuple(builder.problems),
        service,
        virtuals,
        tuple(recorder.services.items()),
        tuple((host, namespace, rule) for (host, namespace), rule in recorder.rules.items()),
        index,
    )
