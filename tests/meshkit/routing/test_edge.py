"""Gateways: which servers run, which hosts they have, how rules merge (istio-semantics 1.1, 3)."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.model.resources import (
    Gateway,
    HTTPMatch,
    Port,
    Server,
    ServerTLS,
    StringMatch,
    TrafficPolicy,
)
from meshkit.routing.compile import Compiler
from meshkit.routing.edge import edge_certificates
from meshkit.routing.names import covers, intersection

SCOPE = "gateway|default/edge|80|0"
REVIEWS = "reviews.default.svc.cluster.local"
TLS = ServerTLS("SIMPLE", "/c.pem", "/k.pem")


def server(*hosts: str, port: int = 80, tls: ServerTLS | None = None, **more: Any) -> Server:
    protocol = "HTTPS" if tls else "HTTP"
    return Server(Port(port, protocol, "web"), hosts or ("*",), tls, **more)


def edge(
    make: Any,
    *servers: Server,
    name: str = "edge",
    selector: dict[str, str] | None = None,
    created: int = 1,
) -> Gateway:
    meta = make.meta("Gateway", name, created=created)
    return Gateway(meta, selector or {}, servers or (server(),))


def behind(make: Any, name: str, *hosts: str, **more: Any) -> Any:
    rule = make.rule("reviews", name=name)
    given = {"gateways": ("default/edge",), "hosts": hosts, **more}
    return make.virtual(name, rule, **given)


@pytest.mark.parametrize(
    ("selector", "runs"),
    [({}, True), ({"istio": "ingressgateway"}, True), ({"istio": "other"}, False)],
    ids=["none selects all", "ours", "another's"],
)
def test_the_selector(
    make: Any, mesh: Any, gateway: Any, selector: dict[str, str], runs: bool
) -> None:
    look = mesh(edge(make, selector=selector), host=gateway)
    assert bool(look.config.edge) is runs
    assert [spec.kind for spec in look.config.listeners] == ["edge"] * runs


def test_a_host_that_is_no_gateway_runs_none(make: Any, mesh: Any) -> None:
    assert mesh(edge(make)).config.edge == ()


def test_server_listener_and_identity(make: Any, mesh: Any, gateway: Any) -> None:
    look = mesh(edge(make, server("*", https_redirect=True)), host=gateway)
    (found,) = look.config.edge
    assert (found.scope, found.hosts, found.https_redirect) == (SCOPE, ("*",), True)
    assert look.config.listeners[0].id == found.listener == "edge|0.0.0.0|80"
    assert look.config.edge_identity == "spiffe://cluster.local/ns/istio-system/sa/mesh-gateway"


def test_a_virtual_service_must_bind_and_overlap(make: Any, mesh: Any, gateway: Any) -> None:
    look = mesh(
        edge(make, server("*.example.com", "default/api.test")),
        behind(make, "in", "shop.example.com"),
        behind(make, "wide", "*.example.com"),
        behind(make, "apex", "example.com"),
        behind(make, "unbound", "x.example.com", gateways=("mesh",)),
        behind(make, "ours", "api.test"),
        behind(make, "theirs", "api.test", namespace="other"),
        host=gateway,
    )
    assert sorted(look.snapshot.scopes[SCOPE]) == ["*.example.com", "api.test", "shop.example.com"]
    assert [route.name for route in look.routes("api.test", 0, SCOPE)] == ["ours"]


def test_the_narrower_of_two_patterns_is_the_host(make: Any, mesh: Any, gateway: Any) -> None:
    look = mesh(edge(make, server("a.x.com")), behind(make, "v", "*"), host=gateway)
    assert list(look.snapshot.scopes[SCOPE]) == ["a.x.com"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("*", "a.com", "a.com"),
        ("*.com", "*.x.com", "*.x.com"),
        ("*.x.com", "x.com", None),
        ("*.x.com", "a.b.x.com", "a.b.x.com"),
        ("*.x.com", "a.yx.com", None),
        ("a", "a", "a"),
        ("a", "b", None),
    ],
)
def test_intersection(one: str, other: str, expected: str | None) -> None:
    assert intersection(one, other) == intersection(other, one) == expected
    assert expected is None or (covers(one, expected) and covers(other, expected))


def test_rules_of_several_merge_with_catch_alls_last(make: Any, mesh: Any, gateway: Any) -> None:
    every = HTTPMatch(uri=StringMatch("regex", ".*"))
    narrow = HTTPMatch(uri=StringMatch("prefix", "/"), method=StringMatch("exact", "PUT"))
    old = make.virtual(
        "old",
        make.rule("reviews", name="a", match=(make.prefix("/a"),)),
        make.rule("reviews", name="root", match=(make.prefix("/"),)),
        hosts=("x.com",),
        gateways=("default/edge",),
        created=1,
    )
    young = make.virtual(
        "young",
        make.rule("ratings", name="put", match=(narrow,)),
        make.rule("ratings", name="b", match=(every, make.prefix("/b"))),
        make.rule("ratings", name="rest"),
        hosts=("x.com",),
        gateways=("default/edge",),
        created=2,
    )
    look = mesh(young, edge(make), old, host=gateway)
    names = [route.name for route in look.routes("x.com", 0, SCOPE)]
    assert names == ["a", "put", "b", "root", "b", "rest"]


def test_one_alone_keeps_its_order(make: Any, mesh: Any, gateway: Any) -> None:
    virtual = make.virtual(
        "v",
        make.rule("reviews", name="all", match=(make.prefix("/"),)),
        make.rule("reviews", name="late", match=(make.prefix("/a"),)),
        hosts=("x.com",),
        gateways=("default/edge",),
    )
    look = mesh(edge(make), virtual, host=gateway)
    assert [route.name for route in look.routes("x.com", 0, SCOPE)] == ["all", "late"]


def test_a_broken_rule_leaves_the_others_of_its_host(make: Any, mesh: Any, gateway: Any) -> None:
    bad = make.virtual(
        "bad",
        make.rule("reviews", match=(HTTPMatch(uri=StringMatch("regex", "a(")),)),
        hosts=("x.com",),
        gateways=("default/edge",),
    )
    look = mesh(edge(make), bad, behind(make, "good", "x.com"), host=gateway)
    assert [route.name for route in look.routes("x.com", 0, SCOPE)] == ["good"]
    assert look.problems == ["invalid"]


def test_the_gateway_is_the_client_for_destination_rules(
    make: Any, mesh: Any, gateway: Any
) -> None:
    rule = make.destination(
        "r", host=REVIEWS, namespace="istio-system", policy=TrafficPolicy("RANDOM")
    )
    own = make.destination("reviews", policy=TrafficPolicy("ROUND_ROBIN"))
    look = mesh(edge(make), behind(make, "v", "x.com"), rule, own, host=gateway)
    assert look.cluster("x.com", SCOPE).balancer == "RANDOM"


def test_certificates_are_named_by_their_files(make: Any, mesh: Any, gateway: Any) -> None:
    compiler = Compiler()
    look = mesh(edge(make, server("a.com", port=443, tls=TLS)), host=gateway, compiler=compiler)
    assert look.config.edge[0].certificate == "/c.pem|/k.pem"
    assert edge_certificates(compiler.edge) == {"/c.pem|/k.pem": ("/c.pem", "/k.pem")}


@pytest.mark.parametrize(
    ("one", "two", "together"),
    [
        (server("a.com"), server("a.com"), True),
        (server("a.com", port=443, tls=TLS), server("b.com", port=443, tls=TLS), True),
        (server("a.com", port=443, tls=TLS), server("a.com", port=443, tls=TLS), False),
        (server("a.com", port=443, tls=TLS), server("b.com", port=443), False),
        (server("a.com", port=443, tls=TLS), server("a.com", port=444, tls=TLS), True),
        (server("a.com", port=443, tls=TLS), server("a.com", port=443, bind="::1"), True),
    ],
    ids=[
        "plaintext with plaintext",
        "TLS with other hosts",
        "TLS with the same host",
        "TLS with plaintext",
        "another port",
        "another address",
    ],
)
def test_servers_of_one_port(
    make: Any, mesh: Any, gateway: Any, one: Server, two: Server, together: bool
) -> None:
    young = edge(make, two, name="a-young", created=2)
    look = mesh(young, edge(make, one, name="old"), host=gateway)
    assert len(look.config.edge) == 1 + together
    assert look.problems == ([] if together else ["conflict"])
    assert any("default/old" in found.scope for found in look.config.edge)
