"""Two connections joined: what one sends the other gets, both ways, until both have ended.

Theory
======
A pump has two ways (`Way`), each from a source to a sink, and one fiber for both: it moves what
there is in either, then waits for whatever may let one of them go on.  One fiber costs less memory
than two, and an idle connection is mostly memory.

A way waits for its source (READ), for its sink (WRITE), or for its next turn (TURN); or its source
has ended and the sink knows (DONE), or an error ended it (FAILED).  What a way holds is one
buffer, and only while its sink is full: a read goes into a buffer of `_spare`, which nearly always
is empty again before the next read.  So an idle connection holds none, a slow reader one of BUFFER
bytes each way, and while that is held nothing is read: TCP tells the sender.

How one side's end reaches the other:

* FIN (with TLS close_notify): all that came before it, then the same.  The other way goes on.
* Reset, TLS cut without close_notify (unless its context has OP_IGNORE_UNEXPECTED_EOF), any error
  of a read: both are reset, once the kernel has delivered what it holds (SETTLE seconds at most).
  A server's last words before a reset are often the reason for it.
* A sink that takes no more (EPIPE) may have last words of its own: they are passed on first.

Errors of a stream that nobody waits to read from (its way is done, or its sink full) are looked
for as well: EPOLLERR is waited for in any case.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from array import array
from collections.abc import Generator
from fcntl import ioctl
from termios import TIOCOUTQ
from types import coroutine
from typing import Any

from meshd.worker.bulk import fill
from meshd.worker.duplex import Buffer, without_frames
from meshd.worker.edges import BURST, READ_EDGE, WRITE_EDGE, closed_error
from meshd.worker.loop import DeadlineExceeded, Loop
from meshd.worker.stream import Stream

BUFFER = 131_072
"""One read, and one send: docs/tcp.md has the measurements."""
SPARE = 16
"""Empty buffers kept for the next read; a slow reader's come back at once and in crowds."""
SETTLE = 1.0
"""For the kernel to deliver what it has taken, before a reset throws it away."""
SETTLE_STEP = 0.02
IDLE_LOOKS = 8
"""An idle limit of n seconds holds between n and n + n/8: a look now and then instead of
noting the time with every byte."""

READ, WRITE, TURN, DONE, FAILED = range(5)

_spare: list[memoryview] = []
_queued = array("i", [0])


class Way:
    """One direction.  `held` is what the sink has not taken yet."""

    __slots__ = ("_buffer", "culprit", "error", "held", "sink", "source", "state")

    def __init__(self, source: Stream, sink: Stream, first: bytes) -> None:
        self.source = source
        self.sink = sink
        self.held: Buffer = first
        self.state = READ
        self.error: OSError | None = None
        self.culprit: Stream | None = None
        """The stream that `error` is of."""
        self._buffer: memoryview | None = None

    def move(self) -> None:
        """As much as goes now; `state` says what it waits for.  Raises nothing."""
        stream = self.sink
        try:
            if self.held and not self._flush():
                return
            while True:
                buffer = _spare.pop() if _spare else memoryview(bytearray(BUFFER))
                stream = self.source
                size = fill(stream, buffer)
                if not size:
                    _spare.append(buffer)
                    if size is None:
                        self.state = TURN if stream.credit <= 0 and stream.readable else READ
                        return
                    if stream.broken:  # a failed send has consumed the kernel's error
                        raise ConnectionResetError(errno.ECONNRESET, "reset by peer")
                    if stream.ragged:
                        raise ConnectionResetError(errno.ECONNRESET, "cut without close_notify")
                    stream = self.sink
                    self.state = DONE if stream.shutdown_write() else WRITE
                    return
                stream = self.sink
                data = buffer if size == BUFFER else buffer[:size]
                taken = stream.try_send(data)
                if taken != size:
                    self._buffer = buffer
                    # What OpenSSL has seen must come again as the same object.
                    self.held = data[taken:] if taken else data
                    self.state = WRITE
                    return
                _spare.append(buffer)
        except OSError as error:
            self._fail(error, stream)

    def _flush(self) -> bool:
        """Whether the sink has taken all that was held."""
        held = self.held
        taken = self.sink.try_send(held)
        if taken != len(held):
            if taken:
                self.held = memoryview(held)[taken:]
            self.state = WRITE
            return False
        self.let_go()
        return True

    def let_go(self) -> None:
        """Hold nothing any more."""
        self.held = b""
        if self._buffer is not None and len(_spare) < SPARE:
            _spare.append(self._buffer)
        self._buffer = None

    def _fail(self, error: OSError, culprit: Stream) -> None:
        self.state, self.error, self.culprit = FAILED, without_frames(error), culprit

    def look_at_source(self) -> None:
        """Fail if the source, which is not being read from, has been reset or closed."""
        source = self.source
        if self.state == READ or self.culprit is source:
            return
        if source.closed:
            self._fail(closed_error(), source)
        elif source.hup:
            code = source.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._fail(OSError(code, os.strerror(code)), source)

    def wait(self) -> None:
        """Say which edges wake the fiber that waits in both slots of both streams."""
        source, sink = self.source, self.sink
        if self.state == READ:
            source.credit = BURST
            source.reader_edge = WRITE_EDGE if source._read_wants_write else READ_EDGE
            source._read_wants_write = False
        else:
            source.reader_edge = select.EPOLLERR
        if self.state == WRITE:
            sink.writer_edge = READ_EDGE if sink._write_wants_read else WRITE_EDGE
            sink._write_wants_read = False
        else:
            sink.writer_edge = 0


class Pump:
    """Joins `down`, which was accepted, and `up`, which was connected to.

    ``first_up``, ``first_down``: bytes that were read already, to be sent first.  ``idle``: seconds
    without a byte either way, 0 = no limit.

    ``sent`` and ``received`` count bytes to and from `up`.  When it has ended, ``flags`` says how:
    "-" both sides ended; "DC", "UC" reset by down, by up; "SI" idle; or what `stop` was given;
    and ``why`` in words.
    """

    __slots__ = (
        *("_down_way", "_fiber", "_from_down", "_from_up", "_loop", "_moved", "_orderly", "_still"),
        *("_up_way", "down", "flags", "idle", "up", "why"),
    )

    def __init__(
        self,
        loop: Loop,
        down: Stream,
        up: Stream,
        *,
        idle: float = 0.0,
        first_up: bytes = b"",
        first_down: bytes = b"",
    ) -> None:
        self._loop = loop
        self.down = down
        self.up = up
        self.idle = idle
        self._up_way = Way(down, up, first_up)
        self._down_way = Way(up, down, first_down)
        self._from_down = up.bytes_out
        self._from_up = down.bytes_out
        self._fiber = loop.current
        self._moved = self._still = 0
        self._orderly = False
        self.flags = ""
        self.why = ""

    @property
    def sent(self) -> int:
        return self.up.bytes_out - self._from_down

    @property
    def received(self) -> int:
        return self.down.bytes_out - self._from_up

    def stop(self, flags: str, why: str) -> None:
        """End it now, both sides reset; harmless if it has ended."""
        if not self.flags:
            self.flags, self.why = flags, why
            self._loop.unpark(self._fiber)

    async def run(self) -> None:
        """Until it has ended; raises only what the loop throws.  Both streams are closed then."""
        self._fiber = fiber = self._loop.current
        down, up = self.down, self.up
        down.reader = down.writer = up.reader = up.writer = fiber
        try:
            await self._until_ended()
            self._release()
            if self._orderly:
                down.close()
                up.close()
            else:
                await self._settle(down)
                await self._settle(up)
        finally:
            self._release()
            down.abort()
            up.abort()

    def _release(self) -> None:
        self.down.reader = self.down.writer = self.up.reader = self.up.writer = None
        self._up_way.let_go()
        self._down_way.let_go()
        self._fiber.expires = 0.0

    async def _until_ended(self) -> None:
        up_way, down_way, up, down = self._up_way, self._down_way, self.up, self.down
        self._look_later()
        while not self.flags:
            if up_way.state < DONE:
                up_way.move()
            if down_way.state < DONE:
                down_way.move()
            odd = up_way.state >= DONE or down_way.state >= DONE or up.hup or down.hup
            if odd and self._judge():
                return
            try:
                if up_way.state == TURN or down_way.state == TURN:
                    await self._loop.yield_turn()
                    down.credit = up.credit = BURST
                else:
                    await self._park()
            except DeadlineExceeded:
                self._look()

    @coroutine
    def _park(self) -> Generator[None, Any, None]:
        self._loop.about_to_park()
        self._up_way.wait()
        self._down_way.wait()
        yield

    def _judge(self) -> bool:
        """Whether it has ended; then also how."""
        ways = (self._up_way, self._down_way)
        if all(way.state == DONE for way in ways):
            self.flags, self._orderly = "-", True
            return True
        for way in ways:
            way.look_at_source()
            if way.state == FAILED and not self.why:
                self.why = str(way.error)
        # A failed sink may have said why: what it sent is read first, by the other way.
        read_failed = any(way.culprit is way.source for way in ways)
        if read_failed or all(way.state >= DONE for way in ways):
            culprit = next((way.culprit for way in ways if way.culprit is not None), None)
            self.flags = "DC" if culprit is self.down else "UC"
        return self.flags != ""

    def _look(self) -> None:
        """Has anything moved lately?"""
        moved = self.down.bytes_in + self.up.bytes_in + self.sent + self.received
        self._still = self._still + 1 if moved == self._moved else 0
        self._moved = moved
        if self._still >= IDLE_LOOKS:
            self.flags, self.why = "SI", f"nothing moved for {self.idle:g} s"
        self._look_later()

    def _look_later(self) -> None:
        if self.idle:
            fiber = self._fiber
            fiber.expires = self._loop.now + self.idle / IDLE_LOOKS
            self._loop.arm(fiber)

    async def _settle(self, stream: Stream) -> None:
        """Reset it once the peer has what the kernel holds for it."""
        loop = self._loop
        until = loop.now + SETTLE
        while not stream.closed and loop.now < until:
            if not _kernel_holds(stream):
                break
            await loop.sleep(SETTLE_STEP)
        stream.abort()


def _kernel_holds(stream: Stream) -> int:
    """Bytes that the peer has not acknowledged yet (tcp(7), SIOCOUTQ)."""
    try:
        ioctl(stream.fd, TIOCOUTQ, _queued)
    except OSError:
        return 0
    return _queued[0]
