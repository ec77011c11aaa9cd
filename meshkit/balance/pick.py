"""Which endpoint of a cluster takes the next try.

A balancer looks at objects that have ``weight`` (at least 1) and ``active``
(requests in flight, maintained by the caller), and leaves out those that this
request has tried already.  When all have been tried, trying one again is better
than giving up, so the exclusion is dropped.

LEAST_REQUEST is the power of two choices: of two endpoints drawn at random the
less busy one.  Drawing is by weight and busyness is ``active / weight``; a tie
goes to the first drawn, so that idle endpoints share by weight exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Sequence
from itertools import accumulate
from random import Random
from typing import Generic, Protocol, TypeVar


class Candidate(Protocol):
    """What a balancer needs of an endpoint."""

    @property
    def active(self) -> int: ...

    @property
    def weight(self) -> int: ...


C = TypeVar("C", bound=Candidate)


class Draw(Generic[C]):
    """Random draws from a fixed sequence, each item by its weight."""

    __slots__ = ("_cumulative", "_items", "_uniform")

    def __init__(self, items: Sequence[C]) -> None:
        self._items = items
        self._cumulative = list(accumulate(item.weight for item in items))
        self._uniform = len({item.weight for item in items}) <= 1

    def __call__(self, random: Random) -> C:
        if self._uniform:
            return self._items[int(random.random() * len(self._items))]
        return self._items[bisect_right(self._cumulative, random.random() * self._cumulative[-1])]


class Balancer(Generic[C]):
    """One cluster's choice of endpoint; `pick` of a subclass decides."""

    __slots__ = ("_draw", "_random", "candidates")

    def __init__(self, candidates: Sequence[C], random: Random) -> None:
        self.candidates = candidates
        self._random = random
        self._draw = Draw(candidates)

    def pick(self, tried: Container[C] = ()) -> C | None:
        """An endpoint, preferably not one in ``tried``; None: there is none (503 UH)."""
        candidates = self.candidates
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        if not tried:
            return self._choose()
        fresh = [item for item in candidates if item not in tried]
        return self._choose_among(fresh) if fresh else self._choose()

    def _choose(self) -> C:
        """From all candidates, two at least."""
        return self._draw(self._random)

    def _choose_among(self, fresh: Sequence[C]) -> C:
        """From those not tried yet: a retry, so it may cost more."""
        return Draw(fresh)(self._random)


class RandomBalancer(Balancer[C]):
    """RANDOM: by weight, whatever the load."""

    __slots__ = ()


class LeastRequest(Balancer[C]):
    """LEAST_REQUEST, Istio's default."""

    __slots__ = ()

    def _choose(self) -> C:
        return _less_busy(self._draw(self._random), self._draw(self._random))

    def _choose_among(self, fresh: Sequence[C]) -> C:
        draw = Draw(fresh)
        return _less_busy(draw(self._random), draw(self._random))


def _less_busy(first: C, second: C) -> C:
    """``active / weight`` compared without dividing; the first wins a tie."""
    return second if second.active * first.weight < first.active * second.weight else first


class RoundRobin(Balancer[C]):
    """ROUND_ROBIN, smooth by weight as nginx does it: a a b a, not a a a b.

    Each turn every candidate gains its weight; the richest is taken and pays the
    sum.  The start is random, so that many workers do not all begin with the first.
    """

    __slots__ = ("_credit", "_next", "_uniform")

    def __init__(self, candidates: Sequence[C], random: Random) -> None:
        super().__init__(candidates, random)
        self._uniform = len({item.weight for item in candidates}) <= 1
        self._next = int(random.random() * len(candidates))
        self._credit = [random.random() * item.weight for item in candidates]

    def _choose(self) -> C:
        if self._uniform:
            self._next = (self._next + 1) % len(self.candidates)
            return self.candidates[self._next]
        return self.candidates[self._richest(range(len(self.candidates)))]

    def _choose_among(self, fresh: Sequence[C]) -> C:
        if not self._uniform:
            allowed = [i for i, item in enumerate(self.candidates) if item in fresh]
            return self.candidates[self._richest(allowed)]
        chosen = self._choose()
        while chosen not in fresh:
            chosen = self._choose()
        return chosen

    def _richest(self, indices: Sequence[int]) -> int:
        credit = self._credit
        for index in indices:
            credit[index] += self.candidates[index].weight
        best = max(indices, key=credit.__getitem__)
        credit[best] -= sum(self.candidates[index].weight for index in indices)
        return best


def make_balancer(name: str, candidates: Sequence[C], random: Random) -> Balancer[C]:
    """``name`` as in DestinationRule.loadBalancer.simple; raises KeyError for another."""
    kinds: dict[str, type[Balancer[C]]] = {
        "LEAST_REQUEST": LeastRequest,
        "ROUND_ROBIN": RoundRobin,
        "RANDOM": RandomBalancer,
    }
    return kinds[name](candidates, random)
