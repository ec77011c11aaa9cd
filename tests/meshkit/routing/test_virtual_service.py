"""VirtualServices in the mesh: precedence, destinations, defaults (istio-semantics 1)."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.model.resources import HTTPMatch, Retries, RouteDestination, StringMatch
from meshkit.snapshot.types import RetryPolicy

REVIEWS = "reviews.default.svc.cluster.local"
RATINGS = "ratings.default.svc.cluster.local"


def targets(routes: Any) -> list[str]:
    return [destination.cluster for route in routes for destination in route.destinations]


def test_a_service_without_rules_has_a_default_route_to_its_port(mesh: Any) -> None:
    (route,) = mesh().routes(REVIEWS)
    assert (route.name, route.match, route.timeout) == ("default", (), None)
    assert targets([route]) == [f"outbound|9080||{REVIEWS}"]


def test_trap_10_retries_exist_without_configuration(make: Any, mesh: Any) -> None:
    default = RetryPolicy(
        2, None, ("connect-failure", "refused-stream", "unavailable", "cancelled")
    )
    assert mesh().routes(REVIEWS)[0].retry == default
    look = mesh(make.virtual("reviews", make.rule("reviews")))
    assert look.routes(REVIEWS)[0].retry == default


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Retries(0), RetryPolicy(0, None, ())),
        (Retries(5), RetryPolicy(5)),
        (Retries(3, 1.0, ("503",)), RetryPolicy(3, 1.0, ("503",))),
        (Retries(3, None, ()), RetryPolicy(3, None, ())),
    ],
)
def test_trap_9_and_the_list_replaced(
    make: Any, mesh: Any, given: Retries, expected: RetryPolicy
) -> None:
    look = mesh(make.virtual("reviews", make.rule("reviews", retries=given)))
    assert look.routes(REVIEWS)[0].retry == expected


def test_trap_1_a_short_host_belongs_to_the_namespace_of_the_rule(make: Any, mesh: Any) -> None:
    look = mesh(make.virtual("reviews", make.rule("ratings"), namespace="other"))
    assert look.routes(REVIEWS)[0].name == "default"
    (route,) = look.routes("reviews.other.svc.cluster.local", 0)
    assert targets([route]) == ["outbound|0||ratings.other.svc.cluster.local"]


def test_trap_2_a_gateways_list_drops_the_mesh(make: Any, mesh: Any) -> None:
    rule = make.rule("ratings", name="named")
    bound = make.virtual("reviews", rule, gateways=("default/edge",))
    assert mesh(bound).routes(REVIEWS)[0].name == "default"
    both = make.virtual("reviews", rule, gateways=("default/edge", "mesh"))
    assert mesh(both).routes(REVIEWS)[0].name == "named"


def test_trap_3_the_oldest_wins_and_nothing_merges(make: Any, mesh: Any) -> None:
    young = make.virtual("a", make.rule("ratings", name="young"), hosts=("reviews",), created=9)
    old = make.virtual("b", make.rule("ratings", name="old"), hosts=("reviews",), created=2)
    assert [route.name for route in mesh(young, old).routes(REVIEWS)] == ["old"]


def test_equal_age_is_decided_by_name(make: Any, mesh: Any) -> None:
    one = make.virtual("b", make.rule("ratings", name="b"), hosts=("reviews",))
    two = make.virtual("a", make.rule("ratings", name="a"), hosts=("reviews",))
    assert mesh(one, two).routes(REVIEWS)[0].name == "a"


def test_an_exact_host_beats_wildcards_and_the_longest_wildcard_the_rest(
    make: Any, mesh: Any
) -> None:
    def rule(name: str, host: str) -> Any:
        return make.virtual(name, make.rule("ratings", name=name), hosts=(host,))

    wide = rule("wide", "*.svc.cluster.local")
    narrow = rule("narrow", "*.default.svc.cluster.local")
    exact = rule("exact", REVIEWS)
    assert mesh(wide).routes(REVIEWS)[0].name == "wide"
    assert mesh(wide, narrow).routes(REVIEWS)[0].name == "narrow"
    assert mesh(wide, narrow, exact).routes(REVIEWS)[0].name == "exact"
    assert mesh(wide, narrow).host("*.default.svc.cluster.local").ports.keys() == {0}


def test_blocks_become_routes_with_their_names(make: Any, mesh: Any) -> None:
    blocks = (make.prefix("/a", name="first"), make.prefix("/b"))
    look = mesh(make.virtual("reviews", make.rule("reviews", name="r", match=blocks)))
    assert [route.name for route in look.routes(REVIEWS)] == ["r.first", "r"]


def test_no_default_route_behind_rules(make: Any, mesh: Any) -> None:
    look = mesh(make.virtual("reviews", make.rule("reviews", match=(make.prefix("/a"),))))
    assert len(look.routes(REVIEWS)) == 1


# -- destinations -------------------------------------------------------------


def weights(make: Any, mesh: Any, *given: int) -> list[int]:
    rule = make.rule(*(RouteDestination("ratings", port=9080, weight=weight) for weight in given))
    (route,) = mesh(make.virtual("reviews", rule)).routes(REVIEWS)
    return [destination.weight for destination in route.destinations]


def test_traps_15_and_16_weights(make: Any, mesh: Any) -> None:
    assert weights(make, mesh, 0) == [1]
    assert weights(make, mesh, 7) == [1]
    assert weights(make, mesh, 3, 1) == [3, 1]
    assert weights(make, mesh, 0, 5) == [5]


def test_weights_that_are_all_0_refuse_the_rule_as_a_whole(make: Any, mesh: Any) -> None:
    rule = make.rule("reviews", "ratings")
    look = mesh(make.virtual("reviews", rule))
    assert look.routes(REVIEWS)[0].name == "default"
    assert look.problems == ["invalid"]


TWO_PORTS = (9080, 9090)


@pytest.mark.parametrize(
    ("explicit", "ports", "listener", "expected"),
    [
        (9090, TWO_PORTS, 9080, 9090),
        (None, TWO_PORTS, 9080, 9080),
        (None, TWO_PORTS, 9090, 9090),
        (None, (7000,), 9090, 7000),
    ],
    ids=["explicit", "the listener's", "the listener's too", "the only one"],
)
def test_trap_17_the_port_of_a_destination(
    make: Any,
    mesh: Any,
    explicit: int | None,
    ports: tuple[int, ...],
    listener: int,
    expected: int,
) -> None:
    names = dict(
        (make.naming("default/reviews", *TWO_PORTS), make.naming("default/ratings", *ports))
    )
    rule = make.rule(RouteDestination("ratings", port=explicit))
    look = mesh(make.virtual("reviews", rule), naming=names)
    assert targets(look.routes(REVIEWS, listener)) == [f"outbound|{expected}||{RATINGS}"]


@pytest.mark.parametrize(
    ("destination", "code"),
    [
        (RouteDestination("nobody"), "unknown-host"),
        (RouteDestination("ratings", "v9"), "unknown-subset"),
        (RouteDestination("ratings", port=1), "unknown-port"),
    ],
)
def test_a_destination_that_is_not_there_is_named_and_reported(
    make: Any, mesh: Any, destination: RouteDestination, code: str
) -> None:
    look = mesh(make.virtual("reviews", make.rule(destination)))
    (route,) = look.routes(REVIEWS)
    assert route.destinations[0].cluster not in look.host(REVIEWS).clusters
    assert look.problems == [code]


def test_a_host_without_a_service_answers_on_any_port(make: Any, mesh: Any) -> None:
    look = mesh(make.virtual("shop", make.rule("reviews"), hosts=("shop.example.com",)))
    host = look.host("shop.example.com")
    assert list(host.ports) == [0]
    assert targets(host.ports[0]) == [f"outbound|9080||{REVIEWS}"]
    assert (host.service, host.namespace) == ("shop.example.com", "default")


def test_a_host_without_a_service_keeps_the_listener_port_where_it_decides(
    make: Any, mesh: Any
) -> None:
    names = dict([make.naming("default/reviews", *TWO_PORTS)])
    virtual = make.virtual("shop", make.rule("reviews"), hosts=("shop.example.com",))
    host = mesh(virtual, naming=names).host("shop.example.com")
    assert targets(host.ports[9090]) == [f"outbound|9090||{REVIEWS}"]
    assert sorted(host.ports) == [0, *TWO_PORTS]


def test_headers_timeout_and_origin_are_carried(make: Any, mesh: Any) -> None:
    look = mesh(make.virtual("reviews", make.rule("reviews", timeout=0.5)))
    (route,) = look.routes(REVIEWS)
    assert (route.timeout, route.origin) == (0.5, "VirtualService/default/reviews")


def test_a_pattern_that_does_not_compile_spoils_only_its_own_resource(make: Any, mesh: Any) -> None:
    bad = make.virtual(
        "reviews", make.rule("ratings", match=(make.prefix("/"), _regex("a("))), created=1
    )
    good = make.virtual("ratings", make.rule("reviews", name="good"))
    look = mesh(bad, good)
    assert look.routes(REVIEWS)[0].name == "default"
    assert look.routes(RATINGS)[0].name == "good"
    assert look.problems == ["invalid"]


def _regex(pattern: str) -> Any:
    return HTTPMatch(uri=StringMatch("regex", pattern))
