"""Checks of VirtualServices by protocol: which rules act on which ports and servers.

A rule of the wrong kind does nothing, and Istio says nothing: an ``http`` rule on a
TLS port, a ``tls`` rule at a gateway that ends TLS, a ``tcp`` rule on an HTTP port.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from meshkit.model.dns import covers
from meshkit.model.gateway_name import MESH
from meshkit.model.protocols import is_http, is_tcp, is_tls
from meshkit.model.resources import L4Match, L4Route, RouteDestination, VirtualService
from meshkit.model.world import World

Predicate = tuple[str, int | None, tuple[str, ...]]
"""(server name or "", port, gateways): what one connection is compared with."""


def check_l4(world: World, service: VirtualService) -> None:
    _check_names(world, service)
    _check_reachable(world, service, "tls", service.tls)
    _check_reachable(world, service, "tcp", service.tcp)
    _check_matches(world, service)
    _check_acts(world, service)
    _check_targets(world, service)


def _rules(service: VirtualService) -> Iterator[tuple[str, L4Route]]:
    for kind, rules in (("tls", service.tls), ("tcp", service.tcp)):
        for index, rule in enumerate(rules):
            yield f"spec.{kind}[{index}]", rule


def _matches(service: VirtualService) -> Iterator[tuple[str, L4Match]]:
    for field, rule in _rules(service):
        for index, match in enumerate(rule.match):
            yield f"{field}.match[{index}]", match


def _check_names(world: World, service: VirtualService) -> None:
    """⚠ Every server name must be within the hosts (istio-semantics 1.4)."""
    hosts = {*service.hosts, *(world.full(host, service.meta) for host in service.hosts)}
    for field, match in _matches(service):
        for name in match.sni_hosts:
            if not any(covers(host, name) for host in hosts):
                message = f'"{name}" is not within the hosts of the VirtualService'
                remedy = f"add it to hosts: ({', '.join(service.hosts)})"
                world.add(match.position, f"{field}.sniHosts", message, remedy, "foreign-sni-host")


def _predicates(rule: L4Route) -> list[Predicate]:
    return [
        (name, match.port, match.gateways)
        for match in rule.match or (L4Match(),)
        for name in match.sni_hosts or ("",)
    ]


def _includes(one: Predicate, other: Predicate) -> bool:
    """Whatever ``other`` takes ``one`` takes.  ⚠ Of names only the same: else the narrower wins."""
    gateways = not one[2] or (bool(other[2]) and set(other[2]) <= set(one[2]))
    return one[0] == other[0] and one[1] in (None, other[1]) and gateways


def _check_reachable(
    world: World, service: VirtualService, kind: str, rules: tuple[L4Route, ...]
) -> None:
    earlier: list[tuple[int, Predicate]] = []
    for index, rule in enumerate(rules):
        mine = _predicates(rule)
        takers = [next((at for at, p in earlier if _includes(p, each)), None) for each in mine]
        if all(at is not None for at in takers):
            message = f"the rule is never reached: {kind}[{takers[0]}] takes its connections first"
            remedy = "remove one of the two, or give them different matches"
            field = f"spec.{kind}[{index}]"
            world.warn(rule.position, field, message, remedy, "unreachable-rule")
        earlier += [(index, each) for each in mine]


def _check_matches(world: World, service: VirtualService) -> None:
    for field, match in _matches(service):
        for gateway in match.gateways:
            if gateway not in service.gateways:
                message = f'the VirtualService is not bound to "{gateway}"'
                remedy = f"its gateways are {', '.join(service.gateways)}: add it there"
                world.warn(match.position, f"{field}.gateways", message, remedy, "unbound-gateway")


# -- does a rule act anywhere? -------------------------------------------------


def _check_acts(world: World, service: VirtualService) -> None:
    """Each kind of rules needs a port or server of its kind; nothing is said in doubt."""
    places = list(_places(world, service))
    if not places or any(place is None for place in places):
        return
    known = [place for place in places if place is not None]
    for field, rule in _rules(service):
        kind = field.removeprefix("spec.")[:3]
        matches = rule.match or (L4Match(),)
        if not any(k == kind and m.applies(g, p) for m, (k, g, p) in product(matches, known)):
            message = f"the rule acts nowhere: {_what(known)}"
            remedy = _REMEDIES[kind]
            world.warn(rule.position, field, message, remedy, "unreachable-rule")
    if service.http and not any(kind == "http" for kind, _, _ in known):
        message = f"the http rules act nowhere: {_what(known)}"
        where, remedy = service.http[0].position, "write tls: or tcp: rules"
        world.warn(where, "spec.http", message, remedy, "unreachable-rule")


_REMEDIES = {
    "tls": "tls rules need a port of protocol TLS or HTTPS, or a server with mode PASSTHROUGH",
    "tcp": "tcp rules need a port of protocol TCP, or a server of TCP or of TLS that it ends",
}

Place = tuple[str, str, int]
"""(kind of rule that acts there, gateway, port)"""


def _what(places: list[Place]) -> str:
    found = sorted({f"port {port} takes {kind} rules" for kind, _, port in places})
    return ", ".join(found[:4])


def _places(world: World, service: VirtualService) -> Iterator[Place | None]:
    """Where the rules could act; None where that is not known."""
    for name in service.gateways:
        gateway = world.gateways.get(name)
        if name == MESH:
            yield from _mesh_places(world, service)
        elif gateway is None:
            yield None
        else:
            for server in gateway.servers:
                yield server.carries, name, server.port.number


def _mesh_places(world: World, service: VirtualService) -> Iterator[Place | None]:
    """A host without a service takes all kinds of rules, on any port."""
    for host in service.hosts:
        ports = world.ports(world.full(host, service.meta))
        if not ports:
            yield None
            continue
        for port, protocol in ports.items():
            if is_http(protocol):
                yield "http", MESH, port
            if is_tcp(protocol):
                yield "tls" if is_tls(protocol) else "tcp", MESH, port


# -- do its destinations take what it sends? -----------------------------------


def _check_targets(world: World, service: VirtualService) -> None:
    for field, rule in _rules(service):
        for index, item in enumerate(rule.route):
            _check_target(world, service, f"{field}.route[{index}]", item, http=False)
    for number, http in enumerate(service.http):
        for index, item in enumerate(http.route):
            _check_target(world, service, f"spec.http[{number}].route[{index}]", item, http=True)


def _check_target(
    world: World, service: VirtualService, field: str, item: RouteDestination, *, http: bool
) -> None:
    """Only where the port is certain: it is named, or the only one."""
    host = world.full(item.host, service.meta)
    ports = world.ports(host) or {}
    port = item.port or (next(iter(ports)) if len(ports) == 1 else None)
    protocol = ports.get(port or 0)
    if protocol is None or (is_http(protocol) if http else is_tcp(protocol)):
        return
    what = "HTTP requests" if http else "connections (tls and tcp rules)"
    message = f'port {port} of "{host}" is {protocol}, which takes no {what}'
    remedy = "name another port, or correct the protocol that the service declares"
    world.warn(item.position, f"{field}.destination.port", message, remedy, "wrong-protocol")
