"""What a backend publishes: the kept view, who waits for it, and the hold timer."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from meshd.discovery.base import View
from meshd.discovery.view import HoldRules, Keeper

Clock = Callable[[], float]


class Board:
    """The view of one backend.  A backend changes ``keeper``, then calls `publish`."""

    def __init__(self, rules: HoldRules | None = None, clock: Clock = time.monotonic) -> None:
        self.keeper = Keeper(rules)
        self.clock = clock
        self._view = View({}, (), connected=False, error="not asked yet")
        self._version = 0
        self._seen = 0
        self._changed = trio.Event()

    @property
    def view(self) -> View:
        return self._view

    @property
    def version(self) -> int:
        """Counts the changes."""
        return self._version

    def publish(self, connected: bool | None = None, error: str | None = None) -> None:
        """Make the keeper's state the view; None leaves connected or error as it is."""
        view = self.keeper.view(
            self._view.connected if connected is None else connected,
            self._view.error if error is None else error,
        )
        if view != self._view:
            self._view = view
            self._version += 1
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Return when the view is not the one of the last return."""
        while self._seen == self._version:
            await self._changed.wait()
        self._seen = self._version
        await trio.lowlevel.checkpoint()

    async def run_holds(self) -> None:
        """Believe held answers when their time is over, until cancelled."""
        while True:
            changed = self._changed
            due = self.keeper.next_expiry()
            wait = float("inf") if due is None else max(0.0, due - self.clock())
            with trio.move_on_after(wait):
                await changed.wait()
            if self.keeper.expire(self.clock()):
                self.publish()
