"""One downstream HTTP/1.1 connection: requests in, one after another, answers out.

The fiber of a connection does everything of a request itself, top to bottom:
read the head, ask the entry for a route, forward, relay the answer, record.
Only a request body that is still arriving gets a second fiber, so that an early
answer is not missed.  Bodies are never collected: at most one read (64 KiB) is
in hand, and the next one waits until the other side has taken it.

This is the request path.  Calls, attribute look-ups and allocations here were
measured; where the code is longer or plainer than it could be, that is why.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from meshd.worker.edges import StreamClosed
from meshd.worker.entry import refusing
from meshd.worker.exchange import Exchange
from meshd.worker.loop import DeadlineExceeded
from meshd.worker.transfer import DRAIN_BYTES
from meshkit.http.errors import REPLY_HEADERS, STATUS_TEXT, reply_body
from meshkit.http.h1 import HTTPError, RequestHead, RequestReader, render_response

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.entry import Entry
    from meshd.worker.stream import Stream

REFUSAL_SECONDS = 2.0
"""For a refused client to read why, before the connection goes."""


class Downstream:
    """Serves one accepted (and already secured) connection until it ends."""

    __slots__ = (
        *("budget", "ctx", "ending", "entry", "exchange", "fiber", "preface", "reader", "served"),
        *("stream", "until"),
    )

    def __init__(self, ctx: WorkerContext, stream: Stream, entry: Entry) -> None:
        self.ctx = ctx
        self.stream = stream
        self.entry = entry
        self.reader = RequestReader(entry.limits)
        self.fiber = ctx.loop.current
        self.served = 0
        self.budget = 0
        """The request that has so many before it is the last; `Watch.add` sets it."""
        self.until = inf
        """When the connection is old, on the loop's clock."""
        self.ending = "keepalive_requests"
        """The limit that makes a request the last."""
        self.exchange: Exchange | None = None
        """The request under way."""
        self.preface = b""
        """What the client has sent, if it speaks HTTP/2 without TLS."""

    async def run(self) -> None:
        """Serve until the peer, a limit, an error or a drain ends the connection.

        Returns early with `preface` set if it is HTTP/2.
        """
        ctx, reader, fiber = self.ctx, self.reader, self.fiber
        idle = self.entry.limits.keepalive_idle
        ctx.watch.add(self)
        try:
            while True:
                if not reader.pending():
                    fiber.expires = ctx.loop.now + idle
                    ctx.loop.arm(fiber)
                head = await self._head()
                if head is None:
                    break
                # The body's idle limit and the route's own deadline replace it.
                fiber.expires = 0.0
                # No local name for it: an idle connection would keep its last request alive.
                self.exchange = Exchange(self, head, monotonic())
                if self.served >= self.budget:
                    self._last(self.exchange)
                if not await self.exchange.run():
                    break
                self.exchange = None
                self.served += 1
        except HTTPError as error:
            if error.code == "http2_preface" and not self.served and self.stream.tls is None:
                self.preface = self.reader.since_preface()
                return
            self.ctx.record_refusal(self.entry, error)
            await self.refuse(error)
        except DeadlineExceeded:
            if self.reader.buffered:  # else the idle time is over, which is no fault
                late = HTTPError(408, "head_timeout", "the request did not arrive in time")
                self.ctx.record_refusal(self.entry, late)
                await self.refuse(late)
            else:
                self.ctx.limit("keepalive_idle")
        except StreamClosed:
            pass  # closed from our side, to drain
        except OSError:
            self.ctx.bump("downstream_resets")
        finally:
            self.exchange = None
            ctx.idle.discard(self)
            ctx.watch.remove(self)
            if not self.preface:
                self.stream.close()

    def end_soon(self, limit: str) -> None:
        """Make the next answer the last."""
        self.budget = 0
        self.ending = limit

    def _last(self, x: Exchange) -> None:
        if self.ctx.overload.level > 1:
            self.ctx.limit("overload_refused")
            x.entry = refusing(self.entry, "overloaded")
        elif x.keep:
            self.ctx.limit(self.ending)
        x.keep = False

    def sweep(self, now: float) -> None:
        """Nothing to look at but exchanges."""

    def exchanges(self) -> Iterable[Exchange]:
        """What is under way."""
        return () if self.exchange is None else (self.exchange,)

    def leave(self) -> None:
        """Called while idle, to drain: close now, nothing is under way."""
        self.stream.close()

    async def _head(self) -> RequestHead | None:
        """The next request head; None when the peer is done or the mesh drains."""
        stream, reader = self.stream, self.reader
        if not reader.pending():
            data = await self._first_bytes()
            if not data:
                return None
            reader.feed(data)
        head = reader.head()
        if head is not None:
            return head
        self._limit_head()
        while head is None:
            data = await stream.recv()
            if not data:
                return None
            reader.feed(data)
            head = reader.head()
        return head

    async def _first_bytes(self) -> bytes:
        """Of the next request; b"" when the peer is done or the mesh drains."""
        stream, idle = self.stream, self.ctx.idle
        data = stream.try_recv() if stream.readable else None
        while data is None:
            if self.ctx.draining:
                return b""
            idle.add(self)
            await stream.wait_readable()
            idle.discard(self)
            data = stream.try_recv()
        return data

    def _limit_head(self) -> None:
        """From the first byte on the whole head has an absolute deadline."""
        self.fiber.expires = self.ctx.loop.now + self.entry.limits.head_timeout
        self.ctx.loop.arm(self.fiber)

    async def refuse(self, error: HTTPError) -> None:
        """Bytes that are no request: one answer, one counter, and the end."""
        ctx = self.ctx
        ctx.limit(error.code)
        body = reply_body(error.message, error.code)
        data = (
            render_response(
                error.status, STATUS_TEXT[error.status], REPLY_HEADERS, len(body), False
            )
            + body
        )
        self.fiber.expires = ctx.loop.now + REFUSAL_SECONDS
        ctx.loop.arm(self.fiber)
        try:
            await self.stream.send(data)
            self.stream.shutdown_write()
            await self._swallow()
        except (OSError, DeadlineExceeded):
            return

    async def _swallow(self) -> None:
        """Closing with unread bytes resets, and the reset would overtake the answer."""
        dropped = 0
        while dropped < DRAIN_BYTES:
            data = await self.stream.recv()
            if not data:
                return
            dropped += len(data)
