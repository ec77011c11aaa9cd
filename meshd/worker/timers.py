"""The loop's deadlines and callbacks, in one heap.

A request moves its deadline several times and meets it hardly ever. So moving it later costs one
comparison: a fiber has at most one live entry, and an entry that comes up too early is pushed
again at the deadline of then. Moving it earlier pushes a second entry, and the first is stale, as
are those of cancelled callbacks and of fibers that are done. Stale entries are counted, and swept
out when they are the majority, so the heap is at most twice what is live.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from meshd.worker.fiber import Fiber

SWEEP_OVER = 64  # fewer stale entries than this are not worth a sweep


class Timer:
    """A pending callback, made by `Loop.call_later`."""

    __slots__ = ("args", "fn", "timers")

    def __init__(self, timers: Timers, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.timers = timers
        self.fn: Callable[..., object] | None = fn
        self.args = args

    def cancel(self) -> None:
        """Do not call; harmless after the call."""
        if self.fn is not None:
            self.fn = None
            self.timers.stale += 1

    def fire(self) -> None:
        fn, self.fn = self.fn, None
        if fn is not None:
            fn(*self.args)
        elif self.timers.stale:  # cancelled by another of the same turn: counted, yet not in there
            self.timers.stale -= 1


class Timers:
    """`next` is when the earliest entry is due, infinity if there is none."""

    __slots__ = ("_heap", "_sequence", "next", "stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Fiber | Timer]] = []
        self._sequence = 0
        self.stale = 0
        self.next = inf

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, fiber: Fiber) -> None:
        """Make `fiber.expires` hold; to be called after each assignment (0 needs no call)."""
        if 0.0 < fiber.expires < fiber.entry:
            self.drop(fiber)
            fiber.entry = fiber.expires
            self._push(fiber.expires, fiber)

    def drop(self, fiber: Fiber) -> None:
        """The fiber's entry, if any, is of no use any more."""
        if fiber.entry != inf:
            fiber.entry = inf
            self.stale += 1

    def call_at(self, when: float, fn: Callable[..., object], args: tuple[Any, ...]) -> Timer:
        timer = Timer(self, fn, args)
        self._push(when, timer)
        return timer

    def due(self, now: float) -> list[Fiber | Timer]:
        """Take out whatever is due, earliest first: callbacks, and fibers that have expired."""
        due: list[Fiber | Timer] = []
        while self.next <= now:
            entry = heappop(self._heap)
            self.next = self._heap[0][0] if self._heap else inf
            target = entry[2]
            if not _is_live(entry):
                self.stale = max(0, self.stale - 1)
            elif isinstance(target, Timer):
                due.append(target)
            else:
                target.entry = inf
                if target.expires > now:
                    self.arm(target)
                elif target.expires:
                    due.append(target)
        return due

    def _push(self, when: float, target: Fiber | Timer) -> None:
        self._sequence += 1
        heappush(self._heap, (when, self._sequence, target))
        if self.stale > SWEEP_OVER and self.stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if _is_live(entry)]
            heapify(self._heap)
            self.stale = 0
        self.next = self._heap[0][0]


def _is_live(entry: tuple[float, int, Fiber | Timer]) -> bool:
    target = entry[2]
    if isinstance(target, Timer):
        return target.fn is not None
    return target.entry == entry[0]
