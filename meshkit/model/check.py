"""Checks that need more than one resource.

Decoding judges a resource alone; here each is held against the others and
against the services that exist.  Errors are what would answer requests with NR
or NC; what would act otherwise than it reads is a warning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from meshkit.model.check_routes import check_virtual_services
from meshkit.model.gateway import bare, shareable
from meshkit.model.problems import Problem
from meshkit.model.resources import (
    DestinationRule,
    Gateway,
    PeerAuthentication,
    Resource,
    Server,
    ServiceEntry,
    WorkloadEntry,
)
from meshkit.model.world import Known, World, age
from meshkit.names import host_of

__all__ = ["Known", "check"]


def check(resources: Iterable[Resource], known: Known) -> list[Problem]:
    """Every finding over all resources; positions are those of the resource at fault."""
    world = World(resources, known)
    check_virtual_services(world)
    _check_destination_rules(world)
    _check_gateways(world)
    _check_service_entries(world)
    _check_peer_authentications(world)
    return world.problems


def _check_destination_rules(world: World) -> None:
    first: dict[tuple[str, str], DestinationRule] = {}
    subsets: dict[tuple[str, str, str], DestinationRule] = {}
    for rule in sorted(world.of(DestinationRule), key=age):
        meta, host = rule.meta, world.full(rule.host, rule.meta)
        if "*" not in host and world.ports(host) is None:
            message = f'nobody declares the host "{host}"'
            remedy = world.suggest(host, meta)
            world.warn(meta.position, "spec.host", message, remedy, "unknown-host")
        key = (meta.namespace, host)
        older = first.setdefault(key, rule)
        if older is not rule and rule.policy != older.policy:
            message = f"{older.meta.key} is older: its trafficPolicy acts, this one does not"
            remedy = "put both into one DestinationRule"
            world.warn(meta.position, "spec.trafficPolicy", message, remedy, "duplicate-host")
        for index, subset in enumerate(rule.subsets):
            twin = subsets.setdefault((*key, subset.name), rule)
            if twin is not rule:
                message = f'{twin.meta.key} already defines the subset "{subset.name}"'
                field = f"spec.subsets[{index}]"
                world.warn(subset.position, field, message, "remove one", "duplicate")


def _check_gateways(world: World) -> None:
    """One address with two meanings, across Gateways that select the same workloads."""
    Owner = tuple[Gateway, Server]
    ports: dict[tuple[object, ...], Owner] = {}
    hosts: dict[tuple[object, ...], Owner] = {}
    for gateway in sorted(world.of(Gateway), key=age):
        for index, server in enumerate(gateway.servers):
            field = f"spec.servers[{index}]"
            address = (_frozen(gateway.selector), server.bind, server.port.number)
            other, theirs = ports.setdefault(address, (gateway, server))
            if other is not gateway and not shareable(theirs, server):
                message = (
                    f"{other.meta.key} has {theirs.port.protocol} on port {server.port.number}"
                )
                world.add(server.position, field, message, "use another port", "conflict")
            for host in map(bare, server.hosts):
                owner, _ = hosts.setdefault((*address, host), (gateway, server))
                if owner is not gateway and server.tls is not None:
                    message = (
                        f'{owner.meta.key} already serves "{host}" on port {server.port.number}'
                    )
                    world.add(server.position, field, message, "remove one", "duplicate-host")


def _frozen(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _check_service_entries(world: World) -> None:
    services = {host_of(service, world.domain) for service in world.known.services}
    first: dict[str, ServiceEntry] = {}
    for entry in sorted(world.of(ServiceEntry), key=age):
        where = entry.meta.position
        for index, host in enumerate(entry.hosts):
            field = f"spec.hosts[{index}]"
            if host in services:
                message = f'"{host}" is also a service that hosts register'
                remedy = "give the entry another host, or stop registering the service"
                world.warn(where, field, message, remedy, "conflict")
            older = first.setdefault(host, entry)
            if older is not entry:
                message = f'{older.meta.key} already declares "{host}", and is older'
                remedy = "put both into one ServiceEntry"
                world.warn(where, field, message, remedy, "duplicate-host")
        _check_selected(world, entry)


def _check_selected(world: World, entry: ServiceEntry) -> None:
    if entry.workload_selector is None:
        return
    wanted = _frozen(entry.workload_selector)
    for workload in world.of(WorkloadEntry):
        same = workload.meta.namespace == entry.meta.namespace
        if same and wanted <= _frozen({**workload.spec.labels, **workload.meta.labels}):
            return
    message = "no WorkloadEntry of this namespace has these labels"
    field, remedy = "spec.workloadSelector", "add one, or correct the labels"
    world.warn(entry.meta.position, field, message, remedy, "nothing-selected")


def _check_peer_authentications(world: World) -> None:
    """⚠ Of several at one level the oldest acts."""
    levels: dict[tuple[str, frozenset[tuple[str, str]]], list[PeerAuthentication]]
    levels = defaultdict(list)
    for policy in sorted(world.of(PeerAuthentication), key=age):
        levels[policy.meta.namespace, _frozen(policy.selector or {})].append(policy)
    for winner, *losers in levels.values():
        for loser in losers:
            message = f"{winner.meta.key} selects the same and is older: it acts, this one does not"
            where, remedy = loser.meta.position, "keep one of the two"
            world.warn(where, "spec.selector", message, remedy, "duplicate")
