"""VirtualService: its envelope; the rules are in `meshkit.model.http_route`."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from meshkit.model import http_later
from meshkit.model.common import EXPORT_TO, Draft
from meshkit.model.decode import INVALID, Field, ListOf, Message, Parts, Spot, later
from meshkit.model.dns import WILDCARD_HOST, covers, is_ip, is_label, is_name
from meshkit.model.http_route import DESTINATION, HTTP_ROUTE
from meshkit.model.resources import VirtualService
from meshkit.model.scalars import String

MESH = "mesh"
"""The reserved gateway name: all callers inside the mesh."""


def _gateway(text: str, spot: Spot) -> Any:
    namespace, slash, name = text.rpartition("/")
    if is_name(name) and (is_label(namespace) or not slash):
        return text
    return spot.error(f'"{text[:70]}" is not a gateway', "write <name> or <namespace>/<name>")


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
        parts.spot.error("has no rules", "add http: with at least one rule", "required")
    gateways: tuple[str, ...] = tuple(dict.fromkeys(parts.get("gateways", ()))) or (MESH,)
    if not _hosts_decoded(parts):
        return INVALID
    _check_hosts(parts, gateways)
    hosts, http = parts.get("hosts", ()), parts.get("http", ())
    draft: Draft = lambda meta: VirtualService(  # noqa: E731
        meta, hosts, tuple(_qualified(gateway, meta.namespace) for gateway in gateways), http
    )
    return draft


def _qualified(gateway: str, namespace: str) -> str:
    return gateway if gateway == MESH or "/" in gateway else f"{namespace}/{gateway}"


VIRTUAL_SERVICE = Message(
    "VirtualService",
    (
        Field("hosts", ListOf(WILDCARD_HOST), note="a short name means the rule's namespace"),
        Field(
            "gateways",
            ListOf(String("a gateway", _gateway)),
            note='default ["mesh"]; a list without mesh leaves the mesh out',
        ),
        Field("http", ListOf(HTTP_ROUTE), note="the first match wins"),
        later("tls", ListOf(http_later.tls_route(DESTINATION))),
        later("tcp", ListOf(http_later.tcp_route(DESTINATION))),
        EXPORT_TO,
    ),
    _build,
)
