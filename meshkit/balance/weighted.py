"""Which destination of a weighted route takes a request.

Istio's rules (istio-semantics 1.3): a share is weight / sum, and the sum need
not be 100.  A single destination takes everything whatever its weight, and a
destination of weight 0 gets nothing while others exist.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


class Weighted(Generic[T]):
    """A choice among ``items`` by ``weights`` (relative, not negative).

    Raises ValueError for no items, unequal lengths, a negative weight, or several
    items that all weigh 0.
    """

    __slots__ = ("_cumulative", "_items", "_total")

    def __init__(self, items: Sequence[T], weights: Sequence[int]) -> None:
        if len(items) != len(weights) or not items or min(weights) < 0:
            raise ValueError("each item needs a weight that is not negative")
        if len(items) == 1:
            weights = [1]
        self._items = items
        self._cumulative = list(accumulate(weights))
        self._total = self._cumulative[-1]
        if not self._total:
            raise ValueError("all weights are 0: give one destination a weight")

    def pick(self, random: Random) -> T:
        """One item."""
        return self._items[bisect_right(self._cumulative, random.random() * self._total)]
