"""Checks of VirtualServices against everything else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from meshkit.model.check_l4 import check_l4
from meshkit.model.dns import covers
from meshkit.model.gateway import bare
from meshkit.model.gateway_name import MESH
from meshkit.model.problems import NOWHERE
from meshkit.model.report import did_you_mean
from meshkit.model.resources import (
    Gateway,
    HTTPMatch,
    HTTPRoute,
    L4Route,
    RouteDestination,
    StringMatch,
    VirtualService,
)
from meshkit.model.world import World, age

_EVERY_PATH = frozenset(
    (StringMatch("prefix", "/"), StringMatch("prefix", ""), StringMatch("regex", ".*"))
)


def check_virtual_services(world: World) -> None:
    for service in world.of(VirtualService):
        _check_destinations(world, service)
        _check_reachable(world, service)
        _check_gateways(world, service)
        _check_hosts(world, service)
        check_l4(world, service)
    _check_duplicates(world)


def _destinations(service: VirtualService) -> Iterator[tuple[str, RouteDestination]]:
    kinds: dict[str, tuple[HTTPRoute | L4Route, ...]]
    kinds = {"http": service.http, "tls": service.tls, "tcp": service.tcp}
    for kind, rules in kinds.items():
        for i, rule in enumerate(rules):
            for j, destination in enumerate(rule.route):
                yield f"spec.{kind}[{i}].route[{j}].destination", destination


def _check_destinations(world: World, service: VirtualService) -> None:
    for field, destination in _destinations(service):
        host = world.full(destination.host, service.meta)
        where = destination.position
        ports = world.ports(host)
        if ports is None:
            message = f'nobody declares the host "{host}"'
            remedy = world.suggest(host, service.meta)
            world.add(where, f"{field}.host", message, remedy, "unknown-host", world.doubt)
        elif destination.port is not None and destination.port not in ports:
            message = f'"{host}" has no port {destination.port}'
            remedy = "its ports are " + (", ".join(map(str, sorted(ports))) or "none")
            world.add(where, f"{field}.port", message, remedy, "unknown-port", world.doubt)
        if destination.subset:
            _check_subset(world, service, field, destination, host)


def _check_subset(
    world: World, service: VirtualService, field: str, destination: RouteDestination, host: str
) -> None:
    """⚠ Only the first namespace with any rule counts (client, service, root)."""
    namespaces = world.lookup_namespaces(host, service.meta)
    found = [rules for namespace in namespaces if (rules := world.rules(host, namespace))]
    defined = [{subset.name for rule in rules for subset in rule.subsets} for rules in found]
    where, path = destination.position, f"{field}.subset"
    if any(destination.subset in names for names in defined):
        if destination.subset not in defined[0]:
            hiding = found[0][0].meta
            message = f'{hiding.key} hides the rule that defines "{destination.subset}"'
            remedy = f"define it in {hiding.key}, which callers of {hiding.namespace} use"
            world.warn(where, path, message, remedy, "hidden-subset")
        return
    message = f'the subset "{destination.subset}" of "{host}" is not defined'
    names = sorted(set().union(*defined))
    if names:
        keys = ", ".join(rule.meta.key for rules in found for rule in rules)
        remedy = did_you_mean(destination.subset, names, f"{keys} defines {', '.join(names)}")
    else:
        remedy = f"add a DestinationRule for {destination.host} with this subset"
    world.add(where, path, message, remedy, "unknown-subset")


def _essence(match: HTTPMatch) -> HTTPMatch:
    """What a match selects, without its name, its place and the order of its keys."""
    return replace(
        match,
        name="",
        position=NOWHERE,
        headers=tuple(sorted(match.headers, key=str)),
        without_headers=tuple(sorted(match.without_headers, key=str)),
        query_params=tuple(sorted(match.query_params, key=str)),
    )


def _takes_all(rule: HTTPRoute) -> bool:
    return not rule.match or any(_is_empty(_essence(match)) for match in rule.match)


def _is_empty(match: HTTPMatch) -> bool:
    if match.uri in _EVERY_PATH:
        match = replace(match, uri=None)
    return replace(match, ignore_uri_case=False) == HTTPMatch()


def _check_reachable(world: World, service: VirtualService) -> None:
    earlier: dict[HTTPMatch, int] = {}
    last: int | None = None
    for index, rule in enumerate(service.http):
        matches = [_essence(match) for match in rule.match]
        twin = next((earlier[match] for match in matches if match in earlier), None)
        if last is not None:
            message = f"the rule is never reached: {_title(service, last)} takes every request"
            remedy = "move it before that rule, or give that rule a match"
        elif matches and all(match in earlier for match in matches):
            message = f"the rule is never reached: {_title(service, twin or 0)} has the same match"
            remedy = "remove one of the two"
        else:
            for match in matches:
                earlier.setdefault(match, index)
            last = index if _takes_all(rule) else None
            continue
        world.warn(rule.position, f"spec.http[{index}]", message, remedy, "unreachable-rule")


def _title(service: VirtualService, index: int) -> str:
    name = service.http[index].name
    return f'http[{index}] ("{name}")' if name else f"http[{index}]"


def _check_gateways(world: World, service: VirtualService) -> None:
    for index, name in enumerate(service.gateways):
        if name == MESH:
            continue
        field, where = f"spec.gateways[{index}]", service.meta.position
        gateway = world.gateways.get(name)
        if gateway is None:
            known = ", ".join(sorted(world.gateways)) or "none"
            remedy = did_you_mean(name, world.gateways, f"add the Gateway; known: {known}")
            message = f'there is no Gateway "{name}"'
            world.add(where, field, message, remedy, "unknown-gateway")
            continue
        for host in service.hosts:
            if not _served(gateway, host, service.meta.namespace):
                message = f'the gateway "{name}" does not serve "{host}"'
                remedy = "add the host to one of its servers"
                world.warn(where, field, message, remedy, "unserved-host")


def _served(gateway: Gateway, host: str, namespace: str) -> bool:
    for pattern in (each for server in gateway.servers for each in server.hosts):
        scope = pattern.rpartition("/")[0] or "*"
        admitted = scope in ("*", namespace) or (
            scope == "." and gateway.meta.namespace == namespace
        )
        dns = bare(pattern)
        if admitted and (covers(dns, host) or covers(host, dns)):
            return True
    return False


def _check_hosts(world: World, service: VirtualService) -> None:
    """Hosts that mean one service twice, and mesh hosts that nobody declares."""
    seen: dict[str, str] = {}
    for index, host in enumerate(service.hosts):
        field, where = f"spec.hosts[{index}]", service.meta.position
        full = world.full(host, service.meta)
        if full in seen:
            message = f'"{host}" and "{seen[full]}" are the same host'
            world.add(where, field, message, "remove one", "duplicate-host")
        seen[full] = host
        in_mesh = MESH in service.gateways and full.endswith(f".{world.domain}")
        if in_mesh and not full.startswith("*") and world.ports(full) is None:
            message = f'nobody declares the host "{full}"'
            world.warn(where, field, message, world.suggest(full, service.meta), "unknown-host")


def _check_duplicates(world: World) -> None:
    """⚠ In the mesh VirtualServices of one host do not merge: the oldest wins."""
    by_host: dict[str, list[VirtualService]] = defaultdict(list)
    for service in sorted(world.of(VirtualService), key=age):
        if MESH in service.gateways:
            for host in dict.fromkeys(world.full(host, service.meta) for host in service.hosts):
                by_host[host].append(service)
    for host, (winner, *losers) in by_host.items():
        for loser in losers:
            message = (
                f'{winner.meta.key} also has the host "{host}", and is older: '
                "its rules act in the mesh, these do not"
            )
            remedy = "put all rules of a host into one VirtualService"
            where = loser.meta.position
            world.warn(where, "spec.hosts", message, remedy, "duplicate-host")
