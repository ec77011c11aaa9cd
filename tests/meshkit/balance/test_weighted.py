"""Weighted destinations (istio-semantics 1.3, traps 15 and 16)."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from meshkit.balance.weighted import Weighted


def share(weights: list[int], rounds: int = 10_000) -> list[float]:
    chooser, random = Weighted(range(len(weights)), weights), Random(7)
    counts = Counter(chooser.pick(random) for _ in range(rounds))
    return [counts[index] / rounds for index in range(len(weights))]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([90, 10], [0.9, 0.1]),
        ([9, 1], [0.9, 0.1]),
        ([1, 1, 2], [0.25, 0.25, 0.5]),
        ([100, 0], [1.0, 0.0]),
        ([0, 5], [0.0, 1.0]),
        ([0], [1.0]),
        ([7], [1.0]),
    ],
)
def test_shares_are_relative(weights: list[int], expected: list[float]) -> None:
    assert share(weights) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2]])
def test_impossible_weights_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Weighted(range(len(weights)), weights)
