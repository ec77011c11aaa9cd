"""Fibers that run one exchange after another, whichever connection it is from.

A fiber of its own for every stream was measured: making it, its coroutine and its
deadline's entry, and ending all of them, cost a tenth of a request.  So a fiber that
is done waits here for the next.  A cancelled one ends, as every fiber does; those
that nobody has needed for a while are cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshd.worker.loop import Fiber, Loop

if TYPE_CHECKING:
    from meshd.worker.h2_exchange import H2Exchange

MOST = 512
"""Waiting at once; about 2 KB each."""


class Runners:
    """The idle ones of a worker."""

    __slots__ = ("_idle", "_least", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._idle: list[Fiber] = []
        self._least = 0
        """Of those, how many were idle all the time since the last sweep."""

    def run(self, x: H2Exchange) -> None:
        """Serve it, in this turn or the next."""
        idle = self._idle
        if idle:
            x.fiber = fiber = idle.pop()
            if len(idle) < self._least:
                self._least = len(idle)
            if self._loop.unpark(fiber, x):
                return
        x.fiber = self._loop.spawn(self._serve(x), "stream")

    async def _serve(self, x: H2Exchange | None) -> None:
        loop, idle = self._loop, self._idle
        fiber = loop.current
        while x is not None:
            await x.serve()
            x = None
            fiber.expires = 0.0
            if fiber.cancelled or len(idle) >= MOST:
                return
            idle.append(fiber)
            x = await loop.park()

    def sweep(self) -> None:
        """Let half of those go that nobody needed; called every second."""
        for fiber in [self._idle.pop(0) for _ in range((self._least + 1) // 2)]:
            fiber.cancel()
        self._least = len(self._idle)
