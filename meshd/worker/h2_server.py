"""One downstream HTTP/2 connection, and the requests on it.

Every request is a stream and a fiber: `H2Exchange` is the exchange and the
stream's state in one object, because a request then costs one object less.  A
request whose body is at hand runs from its head to the wait for its answer in
one step, and from the answer to its record in another; nothing waits for a
socket, since what is queued leaves at the end of the turn (`h2_connection`).

A client that resets its stream, or whose connection dies, cancels the fiber:
wherever it waits, the wait ends, and the try resets its stream upstream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from meshd.worker.entry import refusing
from meshd.worker.h2_connection import H2Connection
from meshd.worker.h2_exchange import H2Exchange
from meshd.worker.transfer import DRAIN_BYTES
from meshkit.http.errors import REPLY_HEADERS, HTTPError, reply_body
from meshkit.http.fields import Field
from meshkit.http.h2 import NO_ERROR, H2Error
from meshkit.http.h2_head import StreamError, response_fields, trailer_fields
from meshkit.http.h2_recall import LastRequest

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.entry import Entry
    from meshd.worker.stream import Stream

GOAWAY_GRACE = 0.5
"""Between "open no more" and "nothing above this": streams that cross the first on the
wire are still served, and hosts of one mesh are nearer than this."""


class H2Downstream(H2Connection):
    """Serves one accepted (and already secured) connection until it ends."""

    __slots__ = (
        *("_leaving", "budget", "ending", "entry", "fiber", "last", "served", "streams", "until"),
    )

    def __init__(self, ctx: WorkerContext, stream: Stream, entry: Entry) -> None:
        super().__init__(ctx, stream, "server", entry.limits)
        self.entry = entry
        self.fiber = ctx.loop.current
        self.streams: dict[int, H2Exchange] = {}
        self.served = 0
        self.budget = 0
        """So many requests, and then no more; `Watch.add` sets it."""
        self.until = inf
        self.ending = "keepalive_requests"
        self._leaving = False
        self.last = LastRequest()

    async def run(self, first: bytes = b"") -> None:
        """Serve until the peer, a limit, an error or a drain ends the connection.

        ``first``: what was read of it already.
        """
        ctx = self.ctx
        ctx.watch.add(self)
        ctx.idle.add(self)
        self.engine.start()
        self.touch()
        try:
            if first:
                self.engine.receive(first, self.loop.now)
                first = b""
            if ctx.draining:
                self.leave()
            await self.read()
            self.lose(None)
        except H2Error as error:  # counted by the sink
            error.__traceback__ = None  # it holds all that was read, and we stay a moment
            self.flush()
            self.lost(None)
            await self._goodbye()
        except OSError as error:
            if not self.over:  # else closed from our side
                ctx.bump("downstream_resets")
            self.lose(error)
        finally:
            ctx.idle.discard(self)
            ctx.watch.remove(self)
            self.lose(None)
            self.engine.detach()

    async def _goodbye(self) -> None:
        """Let the peer read why: closing with unread bytes resets, and overtakes it."""
        self.finish()
        dropped = 0
        try:
            while dropped < DRAIN_BYTES:
                data = await self.stream.recv()
                if not data:
                    return
                dropped += len(data)
        except OSError:
            return

    # The end

    def end_soon(self, limit: str) -> None:
        """Take no more requests than have begun."""
        if not self._leaving:
            self.ctx.limit(limit)
            self.leave()

    def leave(self) -> None:
        """Ask the client to open no more streams; those that are open go on to their end."""
        if not self._leaving:
            self._leaving = True
            self.engine.notice()
            self.touch()
            self.loop.call_later(GOAWAY_GRACE, self.retire)

    def lost(self, error: OSError | None) -> None:
        """Nobody is left to answer."""
        for x in list(self.streams.values()):
            x.leave()
        self.streams.clear()

    def sweep(self, now: float) -> None:
        """Looked at once a second: idle for too long, or a peer that is dead."""
        idle = self.limits.http2_idle
        if not self.streams:
            self.last.forget()
        if not self.is_alive(now):
            self.ctx.limit("http2_ping")
            self.lose(TimeoutError("no answer to a PING"))
        elif not self.streams and 0 < idle <= now - self.idle_since:
            self.end_soon("http2_idle")

    def exchanges(self) -> Iterable[H2Exchange]:
        """What is under way, and answers that the client has not read to their end."""
        return list(self.streams.values())

    # Sink

    def request(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        try:
            head = self.last.head(fields, end, self.limits)
        except HTTPError as error:
            self._refuse(stream, error)
            return
        except StreamError as error:
            self.ctx.limit(error.limit)
            self.engine.reset(stream, error.code)
            return
        x = H2Exchange(self, head, monotonic(), stream, end)
        self.streams[stream] = x
        if self.served >= self.budget or self.ctx.overload.level:
            self._last(x)
        self.served += 1
        self.ctx.runners.run(x)

    def _last(self, x: H2Exchange) -> None:
        if self.ctx.overload.level > 1:
            self.ctx.limit("overload_refused")
            x.entry = refusing(self.entry, "overloaded")
        self.end_soon(self.ending)

    def _refuse(self, stream: int, error: HTTPError) -> None:
        """A head that is no request of ours: one answer on its stream, and one counter."""
        ctx, engine = self.ctx, self.engine
        ctx.limit(error.code)
        ctx.record_refusal(self.entry, error)
        body = reply_body(error.message, error.code)
        engine.respond(stream, response_fields(error.status, REPLY_HEADERS, len(body)), False)
        engine.send(stream, body, True)
        engine.reset(stream, NO_ERROR)
        engine.blame()

    def data(self, stream: int, data: bytes, end: bool) -> None:
        x = self.streams.get(stream)
        if x is None or x.over:
            self.engine.taken(stream, len(data))
            return
        if data:
            x.inbox.append(data)
        x.ended = end
        if x.reader is not None:
            self.loop.unpark(x.reader)

    def trailers(self, stream: int, fields: Sequence[Field]) -> None:
        x = self.streams.get(stream)
        if x is None or x.over:
            return
        try:
            x.trailers = trailer_fields(fields, self.limits)
        except StreamError as error:
            self.ctx.limit(error.limit)
            self.engine.reset(stream, error.code)
            x.leave()
            return
        x.ended = True
        if x.reader is not None:
            self.loop.unpark(x.reader)

    def reset(self, stream: int, code: int, ours: bool) -> None:
        x = self.streams.get(stream)
        if x is not None and not x.over:
            x.leave()

    def closed(self, stream: int) -> None:
        x = self.streams.pop(stream, None)
        if x is not None and not x.over:
            x.leave()
        if not self.streams:
            self.idle_since = self.loop.now
            if self.closing:
                self.touch()
