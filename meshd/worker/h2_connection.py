"""One HTTP/2 connection, either role: bytes in to the engine, bytes out once a turn.

Theory
======
The reader fiber gives what it reads to the engine, which calls this object back
(`meshkit.http.h2.Sink`).  A callback only files what came and wakes a fiber.

Output is gathered.  Whoever queues something calls `touch`; the loop calls
`flush` at the end of the turn, so that sixteen answers leave in one record and
one system call.  Only when the socket is full does a fiber wait for it, and then
nothing more is taken out of the engine: what cannot leave stays accounted to its
stream.

Memory is bounded by credit.  What came on a stream waits in its inbox and is at
most the window announced (64 KiB); credit goes back when the other side has
taken it (`Engine.taken`).  What goes out waits in the engine; a sender that has
more than `high` bytes there waits in `room` until half of it has gone.  So a
slow reader holds its own stream up and nobody else's.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache
from types import coroutine
from typing import TYPE_CHECKING, Any

from meshd.worker.edges import BURST, closed_error
from meshkit.http.fields import Field
from meshkit.http.h2 import NO_ERROR, Role, Settings, new_engine, settings_of
from meshkit.http.limits import Limits

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.fiber import Fiber
    from meshd.worker.stream import Stream
    from meshd.worker.timers import Timer

OUTPUT = 65_536
"""Bytes asked of the engine at once: what one TLS write takes."""
LINGER_SECONDS = 2.0
"""For the peer to read our last words: closing with unread bytes resets, and overtakes them."""


@cache
def settings_for(limits: Limits, role: Role) -> Settings:
    """Of each set of limits once; a process has a handful."""
    return settings_of(limits, role)


class H2Connection:
    """What client and server share.  Subclasses are the engine's sink for messages."""

    __slots__ = (
        *("_got", "_linger", "_pinged", "_quiet", "_writing", "closing", "ctx", "dirty"),
        *("engine", "high", "idle_since", "limits", "loop", "over", "shut", "stalled", "stream"),
    )

    def __init__(self, ctx: WorkerContext, stream: Stream, role: Role, limits: Limits) -> None:
        self.ctx = ctx
        self.loop = ctx.loop
        self.stream = stream
        self.limits = limits
        self.high = limits.buffer_bytes
        self.engine = new_engine(role, settings_for(limits, role), self)  # type: ignore[arg-type]
        self.dirty = False
        self.closing = False
        """Closed as soon as its last stream has ended."""
        self.shut = False
        """Our side has ended: only the peer's end is waited for."""
        self.over = False
        self.stalled: dict[int, Fiber] = {}
        """Senders that wait until some of what they queued has gone, by stream."""
        self.idle_since = ctx.loop.now
        self._writing: Fiber | None = None
        self._got = 0
        self._linger: Timer | None = None
        self._quiet = ctx.loop.now
        self._pinged = False

    # Reading

    async def read(self) -> None:
        """Until the peer ends, or nothing more is wanted.  Raises H2Error, OSError."""
        stream, engine, loop = self.stream, self.engine, self.loop
        while True:
            data = stream.try_recv() if stream.readable else None
            while data is None:
                await stream.wait_readable()
                data = stream.try_recv()
            if not data:
                return
            engine.receive(data, loop.now)
            if not self.dirty and engine.pending:  # `touch`, written out
                self.dirty = True
                loop.dirty.append(self)

    # Writing

    def touch(self) -> None:
        """Something was queued: flush at the end of this turn."""
        if not self.dirty:
            self.dirty = True
            self.loop.dirty.append(self)

    def flush(self) -> None:
        """All that may go and that the socket takes; called by the loop between fibers."""
        self.dirty = False
        if self._writing is not None or self.shut or self.over:
            return
        stream, output = self.stream, self.engine.output
        budget = BURST
        try:
            data = output(OUTPUT)
            while data:
                sent = stream.try_send(data)
                if sent != len(data):
                    self._writing = self.loop.spawn(self._write(data, sent), "h2 writer")
                    break
                if sent < OUTPUT:  # that was all
                    break
                budget -= sent
                if budget <= 0:
                    self.touch()
                    break
                data = output(OUTPUT)
        except OSError as error:
            self.lose(error)
            return
        if self.stalled:
            self._resume()
        if self.closing and self._writing is None and not self.engine.streams:
            self.finish()
        elif self.engine.closing and self._writing is None and self.engine.finished:
            self.finish()  # the peer broke a rule, which showed only as bytes were made

    async def _write(self, data: bytes, sent: int) -> None:
        """The socket is full: wait for it, and nothing more leaves the engine meanwhile."""
        try:
            await self.stream.send_rest(data, sent)
        except OSError as error:
            self.lose(error)
        finally:
            self._writing = None
        self.flush()

    def _resume(self) -> None:
        """Wake the senders whose queue is half empty."""
        queued, low = self.engine.queued, self.high // 2
        for stream, fiber in list(self.stalled.items()):
            if queued(stream) <= low:
                self.loop.unpark(fiber)

    @coroutine
    def room(self, stream: int) -> Generator[None, Any, None]:
        """Wait while more than `high` bytes of a stream are queued.  Raises OSError when lost."""
        while self.engine.queued(stream) > self.high:
            if self.over:
                raise closed_error()
            self.stalled[stream] = self.loop.about_to_park()
            try:
                yield
            finally:
                del self.stalled[stream]

    # The end

    def finish(self) -> None:
        """Nothing is under way: end our side, and give the peer a moment to read it."""
        if self.shut or self.over:
            return
        self.shut = True
        try:
            self.stream.shutdown_write()
        except OSError as error:
            self.lose(error)
            return
        self._linger = self.loop.call_later(LINGER_SECONDS, self.lose, None)

    def lose(self, error: OSError | None) -> None:
        """The connection is gone (None: in good order); its streams are told.  Idempotent."""
        if self.over:
            return
        self.over = True
        if self._linger is not None:  # its timer would keep the codec, 60 kB, for that long
            self._linger.cancel()
            self._linger = None
        self.stream.close()
        for fiber in self.stalled.values():
            self.loop.unpark(fiber)
        self.lost(error)

    def lost(self, error: OSError | None) -> None:
        """For subclasses: end what was under way."""
        raise NotImplementedError

    def retire(self) -> None:
        """Announce the end: streams that have begun go on, and then the connection closes."""
        if not self.closing:
            self.closing = True
            self.engine.goaway(NO_ERROR)
            self.touch()

    def is_alive(self, now: float) -> bool:
        """Looked at once a second: a peer that is silent while streams wait is asked.

        A host that lost its power says nothing, and TCP itself would wait for a quarter
        of an hour.  A full socket is the peer's slowness, which other limits judge.
        """
        got, limits = self.stream.bytes_in, self.limits
        if got != self._got or not self.engine.streams or self._writing is not None:
            self._got, self._quiet, self._pinged = got, now, False
            return True
        quiet = now - self._quiet
        if not 0 < limits.http2_ping_after <= quiet:
            return True
        if not self._pinged:
            self._pinged = True
            self.engine.ping()
            self.touch()
        return quiet < limits.http2_ping_after + limits.http2_ping_wait

    # Sink: what most connections have nothing to do with

    def window(self, stream: int) -> None:
        """`flush` follows every read, and sends what may go now."""

    def settings(self) -> None:
        """Asked for when a stream is opened."""

    def limit(self, code: str) -> None:
        self.ctx.limit(code)

    def interim(self, stream: int, fields: Sequence[Field]) -> None:
        """Only clients get any."""

    def request(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        """Only servers get any."""

    def response(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        """Only clients get any."""

    def goaway(self, last_stream: int, code: int) -> None:
        """A client that says so opens no more streams, and closes when it has its answers."""
