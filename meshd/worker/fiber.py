"""A fiber: one coroutine under the worker's loop. The rules are in loop.py."""

from __future__ import annotations

from collections.abc import Coroutine
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshd.worker.loop import Loop


class Cancelled(BaseException):
    """Raised at a fiber's waits once it was cancelled. Clean up and let it pass."""


class DeadlineExceeded(Exception):
    """The fiber's `expires` has passed. Raised once; `expires` is 0 from then on."""


class Fiber:
    """One coroutine under the loop. Made by `Loop.spawn`.

    `expires` is the deadline on the loop's clock, 0 for none: assign, then `loop.arm(fiber)`.
    `result` and `exception` are final once `done`.
    """

    __slots__ = (
        "cancelled",
        "coro",
        "done",
        "entry",
        "exception",
        "expires",
        "joiners",
        "loop",
        "name",
        "parked",
        "result",
        "throw",
        "value",
    )

    def __init__(self, loop: Loop, coro: Coroutine[Any, Any, Any], name: str) -> None:
        self.loop = loop
        self.coro = coro
        self.name = name
        self.done = False
        self.result: Any = None
        self.exception: BaseException | None = None
        self.expires = 0.0
        self.entry = inf  # time of the live heap entry
        self.parked = False
        self.cancelled = False
        self.value: Any = None  # what the next resume sends
        self.throw: BaseException | None = None  # or throws
        self.joiners: list[Fiber] | None = None

    def __repr__(self) -> str:
        return f"<Fiber {self.name or getattr(self.coro, '__qualname__', '?')}>"

    def cancel(self) -> None:
        """Raise Cancelled at the fiber's wait, now if it is parked, and at every later one."""
        if self.done or self.cancelled:
            return
        self.cancelled = True
        if self.parked:
            self.loop._throw(self, Cancelled())

    async def join(self) -> None:
        """Wait for the end, whatever it is; look at `result` and `exception` then."""
        current = self.loop.current
        while not self.done:
            if self.joiners is None:
                self.joiners = []
            self.joiners.append(current)
            try:
                await self.loop.park()
            finally:
                self.joiners.remove(current)
