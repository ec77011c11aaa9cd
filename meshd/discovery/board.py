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
        self._connected = False
        self._error = "not asked yet"
        self._stale = False
        self._version = 0
        self._seen = 0
        self._published = trio.Event()

    @property
    def view(self) -> View:
        """Made anew only when something was published: a burst costs one view."""
        if self._stale:
            self._stale = False
            view = self.keeper.view(self._connected, self._error)
            if view != self._view:
                self._view = view
                self._version += 1
        return self._view

    def publish(self, connected: bool | None = None, error: str | None = None) -> None:
        """Let the keeper's state be seen; None leaves connected or error as it is."""
        self._connected = self._connected if connected is None else connected
        self._error = self._error if error is None else error
        self._stale = True
        self._published.set()
        self._published = trio.Event()

    async def changed(self) -> None:
        """Return when the view is not the one of the last return."""
        await trio.lowlevel.checkpoint()
        while True:
            published, _ = self._published, self.view
            if self._seen != self._version:
                break
            await published.wait()
        self._seen = self._version

    async def run_holds(self) -> None:
        """Believe held answers when their time is over, until cancelled."""
        while True:
            published = self._published
            due = self.keeper.next_expiry()
            wait = float("inf") if due is None else max(0.0, due - self.clock())
            with trio.move_on_after(wait):
                await published.wait()
            if self.keeper.expire(self.clock()):
                self.publish()
