"""Waking one task: a `Signal` remembers that it was set while nobody waited."""

from __future__ import annotations

import trio


class Signal:
    """Many setters, one waiter; sets between two waits count once."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()

    async def wait_until(self, deadline: float | None) -> None:
        """Return when set, or at ``deadline`` (trio's clock; None = no limit)."""
        with trio.move_on_at(float("inf") if deadline is None else deadline):
            await self.wait()
