"""VirtualService: its envelope; the rules are in `http_route` and `l4_route`."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

from meshkit.model.common import EXPORT_TO, Draft
from meshkit.model.decode import INVALID, Field, ListOf, Message, Parts
from meshkit.model.dns import WILDCARD_HOST, covers, is_ip
from meshkit.model.gateway_name import GATEWAY_NAME, MESH, qualified
from meshkit.model.http_route import HTTP_ROUTE
from meshkit.model.l4_route import TCP_ROUTE, TLS_ROUTE
from meshkit.model.resources import L4Match, L4Route, VirtualService


def _check_hosts(parts: Parts, gateways: tuple[str, ...]) -> None:
    hosts: tuple[str, ...] = parts.get("hosts", ())
    spot = parts.at("hosts")
    for host in hosts:
        if MESH in gateways and host == "*":
            remedy = 'name the hosts, or bind only to gateways ("gateways:")'
            spot.error('"*" alone is not allowed in the mesh', remedy)
        if MESH in gateways and is_ip(host):
            remedy = "name a host, or bind only to gateways"
            spot.error(f'"{host}" is an IP address, which needs a gateway', remedy)
    for first, second in combinations(hosts, 2):
        if first == second:
            spot.error(f'the host "{first}" is given twice', "remove one", "duplicate-host")
        elif covers(first, second) or covers(second, first):
            message = f'the hosts "{first}" and "{second}" overlap'
            spot.error(message, "remove one, or split the VirtualService", "duplicate-host")


def _hosts_decoded(parts: Parts) -> bool:
    """Whether there are hosts to speak of; none = a delegate, which is refused."""
    if parts.given("hosts"):
        written = parts.at("hosts").value.data
        if not isinstance(written, list) or written:
            return True
    parts.at("hosts").not_yet(
        "a VirtualService without hosts (a delegate)", "add hosts:, and write the rules here"
    )
    return False


def _build(parts: Parts) -> Any:
    if not any(map(parts.given, ("http", "tls", "tcp"))):
        parts.spot.error(
            "has no rules", "add http:, tls: or tcp: with at least one rule", "required"
        )
    gateways: tuple[str, ...] = tuple(dict.fromkeys(parts.get("gateways", ()))) or (MESH,)
    if not _hosts_decoded(parts):
        return INVALID
    _check_hosts(parts, gateways)
    draft: Draft = lambda meta: VirtualService(  # noqa: E731
        meta,
        parts.get("hosts", ()),
        tuple(qualified(gateway, meta.namespace) for gateway in gateways),
        parts.get("http", ()),
        _in(meta.namespace, parts.get("tls", ())),
        _in(meta.namespace, parts.get("tcp", ())),
    )
    return draft


def _in(namespace: str, rules: tuple[L4Route, ...]) -> tuple[L4Route, ...]:
    """The rules with the gateways of their matches named in full."""
    return tuple(
        replace(rule, match=tuple(_match_in(namespace, match) for match in rule.match))
        for rule in rules
    )


def _match_in(namespace: str, match: L4Match) -> L4Match:
    return replace(match, gateways=tuple(qualified(g, namespace) for g in match.gateways))


VIRTUAL_SERVICE = Message(
    "VirtualService",
    (
        Field("hosts", ListOf(WILDCARD_HOST), note="a short name means the rule's namespace"),
        Field(
            "gateways",
            ListOf(GATEWAY_NAME),
            note='default ["mesh"]; a list without mesh leaves the mesh out',
        ),
        Field("http", ListOf(HTTP_ROUTE), note="the first match wins"),
        Field("tls", ListOf(TLS_ROUTE), note="of TLS and HTTPS ports, by server name"),
        Field("tcp", ListOf(TCP_ROUTE), note="of other ports that are not HTTP; the first wins"),
        EXPORT_TO,
    ),
    _build,
)
