"""Gateway servers that carry bytes: passthrough by server name, TCP, TLS ended here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshkit.model.resources import (
    Gateway,
    L4Match,
    L4Route,
    Port,
    RouteDestination,
    Server,
    ServerTLS,
)
from meshkit.routing.edge import edge_certificates, plan_edge

CERTIFICATE = ServerTLS("SIMPLE", "/c.pem", "/k.pem")
PASSTHROUGH = ServerTLS("PASSTHROUGH")


def server(
    protocol: str, *hosts: str, port: int = 443, tls: ServerTLS | None = None, bind: str = ""
) -> Server:
    return Server(Port(port, protocol, "x"), hosts or ("*",), tls, bind=bind)


def edge(make: Any, *servers: Server, name: str = "edge", created: int = 1) -> Gateway:
    return Gateway(make.meta("Gateway", name, created=created), {}, servers)


def l4(to: str, *matches: L4Match) -> L4Route:
    return L4Route(matches, (RouteDestination(to),))


def virtual(make: Any, name: str, *hosts: str, tls: Any = (), tcp: Any = (), **more: Any) -> Any:
    made = make.virtual(name, hosts=hosts, gateways=("default/edge",), **more)
    return replace(made, tls=tuple(tls), tcp=tuple(tcp))


def scope(index: int = 0, port: int = 443) -> str:
    return f"gateway|default/edge|{port}|{index}"


def cluster(look: Any, host: str, **where: Any) -> list[tuple[tuple[str, ...], str]]:
    routes = look.host(host, scope(**where)).tcp[0]
    return [(route.sni_hosts, route.destinations[0].cluster) for route in routes]


REVIEWS = "outbound|9080||reviews.default.svc.cluster.local"
RATINGS = "outbound|9080||ratings.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("made", "shape", "carries", "certificate"),
    [
        (server("HTTP"), "HTTP", "HTTP", False),
        (server("HTTP2"), "HTTP", "HTTP", False),
        (server("GRPC"), "HTTP", "HTTP", False),
        (server("HTTPS", tls=CERTIFICATE), "TLS", "HTTP", True),
        (server("HTTPS", tls=PASSTHROUGH), "TLS", "TCP", False),
        (server("TLS", tls=PASSTHROUGH), "TLS", "TCP", False),
        (server("TLS", tls=CERTIFICATE), "TLS", "TCP", True),
        (server("TCP", tls=CERTIFICATE), "TLS", "TCP", True),
        (server("TCP"), "TCP", "TCP", False),
        (server("MONGO"), "TCP", "TCP", False),
    ],
    ids=lambda value: value.port.protocol if isinstance(value, Server) else str(value),
)
def test_servers_of_every_protocol(
    make: Any, mesh: Any, gateway: Any, made: Server, shape: str, carries: str, certificate: bool
) -> None:
    resource = edge(make, made)
    config = mesh(resource, host=gateway).config
    (listener,), (found,) = config.listeners, config.edge
    assert (listener.protocol, found.protocol) == (shape, carries)
    assert found.passthrough is (made.tls == PASSTHROUGH)
    assert bool(found.certificate) is certificate
    assert bool(edge_certificates(plan_edge([resource], gateway.gateway))) is certificate


def test_passthrough_is_routed_by_server_name(make: Any, mesh: Any, gateway: Any) -> None:
    look = mesh(
        edge(make, server("TLS", "*.example.org", tls=PASSTHROUGH)),
        virtual(
            make,
            "all",
            "*.example.org",
            tls=[
                l4("reviews", L4Match(("*.example.org",))),
                l4("ratings", L4Match(("a.example.org",))),
            ],
        ),
        host=gateway,
    )
    assert list(look.snapshot.scopes[scope()]) == ["*.example.org"]
    assert cluster(look, "*.example.org") == [
        (("a.example.org",), RATINGS),
        (("*.example.org",), REVIEWS),
    ]


@pytest.mark.parametrize(
    ("match", "routed"),
    [
        (L4Match(("a.example",), port=443), True),
        (L4Match(("a.example",), port=444), False),
        (L4Match(("a.example",), gateways=("default/edge",)), True),
        (L4Match(("a.example",), gateways=("mesh",)), False),
    ],
)
def test_a_match_names_the_servers_port_and_gateway(
    make: Any, mesh: Any, gateway: Any, match: L4Match, routed: bool
) -> None:
    look = mesh(
        edge(make, server("TLS", tls=PASSTHROUGH)),
        virtual(make, "v", "a.example", tls=[l4("reviews", match)]),
        host=gateway,
    )
    assert (scope() in look.snapshot.scopes) is routed


@pytest.mark.parametrize("tls", [None, CERTIFICATE], ids=["plain", "ended here"])
def test_bytes_go_where_the_first_tcp_rule_says(
    make: Any, mesh: Any, gateway: Any, tls: ServerTLS | None
) -> None:
    """No name tells them apart: the one host of such a scope is ``*``."""
    look = mesh(
        edge(make, server("TCP" if tls is None else "TLS", "db.example", port=5432, tls=tls)),
        virtual(make, "late", "db.example", tcp=[l4("ratings")], created=9),
        virtual(make, "first", "*.example", tcp=[l4("ratings", L4Match(port=1)), l4("reviews")]),
        virtual(make, "elsewhere", "other.test", tcp=[l4("ratings")], created=0),
        host=gateway,
    )
    assert list(look.snapshot.scopes[scope(port=5432)]) == ["*"]
    assert cluster(look, "*", port=5432) == [((), REVIEWS)]


def test_each_server_takes_the_rules_of_its_kind(make: Any, mesh: Any, gateway: Any) -> None:
    every = replace(
        make.virtual("v", make.rule("reviews"), hosts=("a.example",), gateways=("default/edge",)),
        tls=(l4("reviews", L4Match(("a.example",))),),
        tcp=(l4("ratings"),),
    )
    servers = (
        server("HTTP", port=80),
        server("TLS", tls=PASSTHROUGH),
        server("TCP", port=5432),
    )
    look = mesh(edge(make, *servers), every, host=gateway)
    http = look.host("a.example", scope(0, 80))
    assert http.ports and not http.tcp
    passed = look.host("a.example", scope(1))
    assert passed.tcp and not passed.ports
    assert cluster(look, "*", index=2, port=5432) == [((), RATINGS)]


def test_tls_servers_share_a_port_by_their_names(make: Any, mesh: Any, gateway: Any) -> None:
    """An ended HTTPS, an ended TLS and a passed one: the ClientHello says which."""
    servers = (
        server("HTTPS", "a.example", tls=CERTIFICATE),
        server("TLS", "b.example", tls=CERTIFICATE),
        server("TLS", "c.example", tls=PASSTHROUGH),
    )
    look = mesh(edge(make, *servers), host=gateway)
    assert look.problems == []
    assert [spec.protocol for spec in look.config.listeners] == ["TLS"]
    assert [(s.hosts, s.passthrough) for s in look.config.edge] == [
        (("a.example",), False),
        (("b.example",), False),
        (("c.example",), True),
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (server("TCP"), server("TCP", "other")),
        (server("TCP"), server("HTTP", "other")),
        (server("HTTP"), server("TLS", "other", tls=PASSTHROUGH)),
        (server("TLS", "a", tls=CERTIFICATE), server("TLS", "a", tls=PASSTHROUGH)),
    ],
    ids=["bytes twice", "bytes and HTTP", "HTTP and TLS", "one name twice"],
)
def test_trap_servers_that_cannot_share_a_port_are_said(
    make: Any, mesh: Any, gateway: Any, first: Server, second: Server
) -> None:
    """⚠ Istio leaves the later out in silence (istio-semantics 3)."""
    old, young = edge(make, first), edge(make, second, name="young", created=2)
    look = mesh(young, old, host=gateway)
    assert [found.scope for found in look.config.edge] == [scope()]
    assert look.problems == ["conflict"]
