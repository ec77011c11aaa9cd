"""DestinationRules: lookup, merging, subsets, policies (istio-semantics 2)."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.model.resources import TrafficPolicy
from meshkit.routing.rules import NO_RULE, RuleIndex

REVIEWS = "reviews.default.svc.cluster.local"
V1, V2 = f"outbound|9080|v1|{REVIEWS}", f"outbound|9080|v2|{REVIEWS}"
ROUND = TrafficPolicy(load_balancer="ROUND_ROBIN")
RANDOM = TrafficPolicy(load_balancer="RANDOM")


def test_the_default_is_least_request_and_automatic_mtls(mesh: Any) -> None:
    cluster = mesh().cluster(REVIEWS)
    assert cluster.balancer == "LEAST_REQUEST"
    assert all(endpoint.sni for endpoint in cluster.endpoints)


def test_a_subset_selects_by_labels(make: Any, mesh: Any) -> None:
    look = mesh(
        make.virtual("reviews", make.rule("reviews:v2")),
        make.destination("reviews", make.subset("v1"), make.subset("v2")),
    )
    (endpoint,) = look.cluster(REVIEWS, name=V2).endpoints
    assert endpoint.instance == "v2"
    assert list(look.host(REVIEWS).clusters) == [V2]


def test_a_subset_without_labels_is_everyone(make: Any, mesh: Any) -> None:
    everyone = make.destination("reviews", make.subset("v2", tier="x"))
    virtual = make.virtual("reviews", make.rule("reviews:v2"))
    assert mesh(virtual, everyone).cluster(REVIEWS, name=V2).endpoints == ()


def test_trap_5_a_subset_policy_acts_only_when_routed_to(make: Any, mesh: Any) -> None:
    rule = make.destination("reviews", make.subset("v2", RANDOM), policy=ROUND)
    assert mesh(rule).cluster(REVIEWS).balancer == "ROUND_ROBIN"
    routed = mesh(rule, make.virtual("reviews", make.rule("reviews:v2")))
    assert routed.cluster(REVIEWS, name=V2).balancer == "RANDOM"


def test_a_subset_policy_overrides_by_block(make: Any, mesh: Any) -> None:
    """Its load balancer is its own; the tls block above it stays."""
    above = TrafficPolicy(load_balancer="ROUND_ROBIN", tls="DISABLE")
    rule = make.destination("reviews", make.subset("v2", RANDOM), policy=above)
    cluster = mesh(rule, make.virtual("reviews", make.rule("reviews:v2"))).cluster(REVIEWS, name=V2)
    assert cluster.balancer == "RANDOM"
    assert [endpoint.sni for endpoint in cluster.endpoints] == [""]


def test_trap_3_same_host_twice_unites_subsets_and_the_first_policy_wins(
    make: Any, mesh: Any
) -> None:
    old = make.destination("a", make.subset("v1"), host="reviews", created=1)
    middle = make.destination(
        "b", make.subset("v1", track="x"), host="reviews", created=2, policy=ROUND
    )
    young = make.destination("c", make.subset("v2"), host=REVIEWS, created=3, policy=RANDOM)
    split = make.virtual("reviews", make.rule("reviews:v1", name="one"), hosts=("reviews",))
    look = mesh(young, middle, old, split)
    (endpoint,) = look.cluster(REVIEWS, name=V1).endpoints
    assert endpoint.instance == "v1"
    assert look.cluster(REVIEWS, name=V1).balancer == "ROUND_ROBIN"


def found(make: Any, *rules: tuple[str, str]) -> str:
    """The balancer-carrying rule that client ``client`` finds for reviews.default."""
    named = [
        make.destination(f"{namespace}-{index}", make.subset(host), host=host, namespace=namespace)
        for index, (namespace, host) in enumerate(rules)
    ]
    rule = RuleIndex(named, "svc.cluster.local", "istio-system").find("client", "default", REVIEWS)
    return next(iter(rule.subsets), "none")


WIDE = "*.svc.cluster.local"
NARROW = "*.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("rules", "wins"),
    [
        ([("client", REVIEWS), ("default", REVIEWS), ("istio-system", REVIEWS)], REVIEWS),
        ([("client", WIDE), ("default", REVIEWS)], WIDE),
        ([("default", NARROW), ("istio-system", REVIEWS)], NARROW),
        ([("istio-system", REVIEWS)], REVIEWS),
        ([("default", WIDE), ("default", NARROW)], NARROW),
        ([("default", WIDE), ("default", REVIEWS)], REVIEWS),
        ([("elsewhere", REVIEWS)], "none"),
        ([("client", "reviews")], "none"),
        ([("default", "reviews")], "reviews"),
    ],
    ids=[
        "the client's own first",
        "the first namespace with any match, however wide",
        "the service's before the root's",
        "the root's last",
        "longest wildcard",
        "exact before wildcard",
        "a third namespace has no say",
        "a short host is of the rule's namespace",
        "which may be the service's",
    ],
)
def test_trap_4_lookup(make: Any, rules: list[tuple[str, str]], wins: str) -> None:
    assert found(make, *rules) == wins


def test_nothing_found_is_no_rule() -> None:
    index = RuleIndex((), "svc.cluster.local", "istio-system")
    assert index.find("a", "b", REVIEWS) is NO_RULE


def test_an_equal_rule_stays_the_same_object(make: Any) -> None:
    def index(before: RuleIndex | None) -> RuleIndex:
        return RuleIndex([make.destination("reviews", make.subset("v1"))], "d", "root", before)

    first = index(None)
    key = ("default", "default", "reviews.default.d")
    assert index(first).find(*key) is first.find(*key)
