"""Connections that take too long, too much or too many requests: looked at once a second.

A request pays for none of this but one comparison of integers (`Downstream.budget`).
What time brings about is found by the sweep: it compares the byte counts of every
exchange under way with those of a second ago, and ends what stands still by making
the fiber's own deadline come.  So a limit of n seconds holds between n and n + 1.

Who is waited for decides: a client is slow only while a fiber waits to read from it.
A body that its upstream does not take is that upstream's fault.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from meshkit.http.limits import Limits

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.downstream import Downstream
    from meshd.worker.exchange import Exchange
    from meshd.worker.h2_server import H2Downstream
    from meshd.worker.transfer import Look

UNLIMITED = sys.maxsize
JITTER = 0.1
"""Connections opened together end their lives over this part of their age."""


class Progress:
    """What an exchange had moved when it was last looked at."""

    __slots__ = ("_at", "_got", "_got_at", "_moved", "_moved_at", "_window_at", "_window_got")

    def __init__(self, x: Exchange, now: float) -> None:
        look = x.look()
        self._at = self._got_at = self._moved_at = self._window_at = now
        self._got = self._window_got = look.got
        self._moved = look.moved

    def hit(self, x: Exchange, limits: Limits, now: float) -> str:
        """The limit that is exceeded now, "" = none."""
        look = x.look()
        if look.moved != self._moved:
            self._moved, self._moved_at = look.moved, now
        elif 0 < limits.stream_idle <= now - self._moved_at:
            return "stream_idle"
        if x.status or look.done:
            return ""
        if 0 < limits.request_timeout <= now - x.started:
            return "request_timeout"
        return self._slow_body(x, look, limits, now)

    def _slow_body(self, x: Exchange, look: Look, limits: Limits, now: float) -> str:
        asked = not x.head.expect_continue or x.bytes_in > 0
        waited_for = look.waited_for and asked
        got = look.got
        if got != self._got or not waited_for:
            self._got, self._got_at = got, now
        elif 0 < limits.body_idle <= now - self._got_at:
            return "body_idle"
        if not waited_for:
            self._window_at += now - self._at
        self._at = now
        if now - self._window_at >= limits.body_rate_seconds:
            if got - self._window_got < limits.body_rate * limits.body_rate_seconds:
                return "body_rate"
            self._window_at, self._window_got = now, got
        return ""


class Watch:
    """All downstream connections that are served, and the exchanges under way."""

    def __init__(self, ctx: WorkerContext) -> None:
        self._ctx = ctx
        self._downs: set[Downstream | H2Downstream] = set()
        self._under_way: dict[Exchange, Progress] = {}
        self._forbidden: dict[Downstream | H2Downstream, float] = {}
        """Connections that are not allowed any more, and when they are cut."""

    def add(self, down: Downstream | H2Downstream) -> None:
        """A connection begins: how many requests it may carry, and how old it may grow."""
        limits = down.entry.limits
        down.budget = limits.keepalive_requests - 1 if limits.keepalive_requests else UNLIMITED
        if limits.keepalive_age:
            part = 1.0 - JITTER * self._ctx.random.random()
            down.until = self._ctx.loop.now + limits.keepalive_age * part
        if self._ctx.overload.level:
            down.end_soon("overload_keepalive")
        self._downs.add(down)

    def remove(self, down: Downstream | H2Downstream) -> None:
        self._downs.discard(down)
        self._forbidden.pop(down, None)

    def look_again(self) -> None:
        """The configuration has changed: end what is not allowed any more."""
        now = self._ctx.loop.now
        for down in list(self._downs):
            reason = down.entry.forbidden()
            if not reason:
                self._forbidden.pop(down, None)
                continue
            self._forbidden.setdefault(down, now + down.entry.limits.forbidden_grace)
            for x in down.exchanges():
                if x.tunnel:
                    self._ctx.refused(reason, detail=f"tunnel from {down.entry.remote}")
                    x.keep, x.flags, x.details, x.failure = False, "DPE", reason, reason
                    x.end_now(now)

    @property
    def in_flight(self) -> int:
        """Exchanges that were under way at the last sweep."""
        return len(self._under_way)

    def sweep(self, now: float) -> None:
        before, self._under_way = self._under_way, {}
        overloaded = self._ctx.overload.level > 0
        for down, until in list(self._forbidden.items()):
            if now >= until:
                self._ctx.limit("forbidden_grace")
                down.stream.abort()
        for down in list(self._downs):
            if overloaded:
                down.end_soon("overload_keepalive")
            elif now >= down.until:
                down.end_soon("keepalive_age")
            down.sweep(now)
            for x in down.exchanges():
                if x.grpc and x.status:
                    # A stream may live for days: its messages are counted meanwhile.
                    self._ctx.recorder.messages(x)
                progress = before.get(x)
                if progress is None:
                    progress = Progress(x, now)
                else:
                    limit = progress.hit(x, down.entry.limits, now)
                    if limit:
                        self._end(x, limit, now)
                        progress = Progress(x, now)
                self._under_way[x] = progress

    def _end(self, x: Exchange, limit: str, now: float) -> None:
        """Make the exchange's deadline come: a reply, or the cut of an answer that has begun."""
        self._ctx.limit(limit)
        x.keep = False
        x.failure = limit
        if x.status:
            x.flags = "SI"
        elif limit == "stream_idle":
            x.overdue = "upstream_idle_timeout" if x.look().done else "stream_idle_timeout"
        else:
            x.overdue = "request_timeout"
        x.end_now(now)
