"""Balancers: shares, load, and what a retry leaves out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.balance.pick import Balancer, make_balancer

ALL = ["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]


@dataclass(eq=False)
class Target:
    name: str
    weight: int = 1
    active: int = 0


def targets(*weights: int) -> list[Target]:
    return [Target(chr(97 + index), weight) for index, weight in enumerate(weights)]


def shares(balancer: Balancer[Target], rounds: int = 6000) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        picked = balancer.pick()
        assert picked is not None
        counts[picked.name] += 1
    return {name: count / rounds for name, count in counts.items()}


@pytest.mark.parametrize("name", ALL)
def test_nobody_and_the_only_one(name: str) -> None:
    assert make_balancer(name, [], Random(1)).pick() is None
    only = Target("a")
    assert make_balancer(name, [only], Random(1)).pick([only]) is only


@pytest.mark.parametrize("name", ALL)
def test_idle_endpoints_share_by_weight(name: str) -> None:
    balancer = make_balancer(name, targets(1, 1, 2), Random(1))
    assert shares(balancer) == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5}, abs=0.02)


@pytest.mark.parametrize("name", ALL)
def test_equal_weights_share_equally(name: str) -> None:
    balancer = make_balancer(name, targets(3, 3), Random(1))
    assert shares(balancer) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.02)


def test_round_robin_takes_turns_exactly() -> None:
    balancer = make_balancer("ROUND_ROBIN", targets(1, 1, 1), Random(1))
    picked = [balancer.pick() for _ in range(6)]
    assert picked[:3] == picked[3:]
    assert len({id(item) for item in picked}) == 3


def test_weighted_round_robin_spreads_rather_than_bunches() -> None:
    balancer = make_balancer("ROUND_ROBIN", targets(2, 1, 1), Random(1))
    names = "".join(item.name for _ in range(40) if (item := balancer.pick()))
    assert "aaa" not in names
    assert names.count("a") == 20


def test_least_request_prefers_the_idle_one() -> None:
    busy, idle = Target("busy", active=9), Target("idle")
    balancer = make_balancer("LEAST_REQUEST", [busy, idle], Random(1))
    assert shares(balancer)["idle"] == pytest.approx(0.75, abs=0.02)


def test_least_request_measures_load_by_weight() -> None:
    """Four requests on a weight of 4 are as busy as one on 1, so a tie: shares by weight."""
    pair = [Target("big", 4, 4), Target("small", 1, 1)]
    assert shares(make_balancer("LEAST_REQUEST", pair, Random(1)))["big"] == pytest.approx(
        0.8, abs=0.02
    )


@pytest.mark.parametrize("name", ALL)
@given(
    weights=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    tried=st.sets(st.integers(0, 4), max_size=5),
    seed=st.integers(0, 99),
)
def test_what_was_tried_is_left_out_while_others_exist(
    name: str, weights: list[int], tried: set[int], seed: int
) -> None:
    candidates = targets(*weights)
    excluded = [candidates[index] for index in tried if index < len(candidates)]
    balancer = make_balancer(name, candidates, Random(seed))
    for _ in range(5):
        picked = balancer.pick(excluded)
        assert picked in candidates
        assert picked not in excluded or len(excluded) == len(candidates)


def test_an_unknown_balancer_is_a_defect_of_the_caller() -> None:
    with pytest.raises(KeyError):
        make_balancer("BEST", targets(1), Random(1))
