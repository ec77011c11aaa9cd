"""The edges of one socket: sticky bits, and who waits for them.

Theory
======
A descriptor is registered once, edge-triggered, and carries two sticky bits, `readable` and
`writable`: "an attempt may succeed". The invariant that keeps a wake-up from getting lost:

    A bit that is clear means that an edge is still to come.

An edge sets it, whether or not somebody waits. Only proof that the kernel has nothing clears it,
because whatever arrives after that proof makes a new edge. Proofs are

* EAGAIN; of OpenSSL, WantRead (for `readable`) and WantWrite (for `writable`), whichever call
  they come from: SSL_read may have to write (a key update's answer), SSL_write to read;
* on a TCP socket without TLS, a read that returned less than it was given room for (epoll(7));
* with TLS, nothing pending in OpenSSL and FIONREAD 0. `pending()` alone proves nothing: one edge
  may stand for many records, of which OpenSSL takes in one at a time. A full record is never
  asked about: more is likely.

The last two spare the attempt that is bound to fail (1.3 us plain, 2 us TLS, because each is an
exception). They hold while the end of the stream was not announced: EOF adds no byte and its edge
may be the one already seen; and a read stops short at urgent data with more behind it. So after
RDHUP, HUP, ERR or PRI (`_short_proves` is False), only a failed attempt clears the bit.

An edge promises nothing: a TLS edge may bring only a session ticket or half a record. So every
wait is "attempt, and if it would block, wait for its bit, and attempt again".

One reader and one writer may wait at once, each for either direction.

After close nothing may touch the descriptor: OpenSSL keeps its number, which by then may be
somebody else's socket. So closing also takes the calls away, and wakes who waits with StreamClosed.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Generator
from types import coroutine
from typing import Any

from meshd.worker.loop import Fiber, Loop

READ_EDGE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
WRITE_EDGE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_LAST = _GONE | select.EPOLLPRI

BURST = 262_144  # bytes that one stream may move before others get their turn


class StreamClosed(ConnectionError):
    """The stream was closed or broken on our side."""


class Edges:
    """The part of a stream that the loop knows. It owns `sock` and registers it.

    hup: the kernel announced the peer's end (or an error); bytes may still be unread.
    """

    __slots__ = (
        "_short_proves",
        "closed",
        "credit",
        "fd",
        "hup",
        "loop",
        "readable",
        "reader",
        "reader_edge",
        "sock",
        "writable",
        "writer",
        "writer_edge",
    )

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.readable = self.writable = True  # nothing proven yet
        self.hup = self.closed = False
        self.credit = BURST
        self.reader: Fiber | None = None
        self.writer: Fiber | None = None
        self.reader_edge = READ_EDGE
        self.writer_edge = WRITE_EDGE
        self._short_proves = sock.family in (socket.AF_INET, socket.AF_INET6)
        loop.register(self.fd, self)

    def on_events(self, mask: int) -> None:
        """The loop's edge: remember it, wake who waits for it."""
        if mask & READ_EDGE:
            self.readable = True
        if mask & WRITE_EDGE:
            self.writable = True
        if mask & _LAST:
            self._short_proves = False
            if mask & _GONE:
                self.hup = True
        fiber = self.reader
        if fiber is not None and mask & self.reader_edge:
            self.loop.unpark(fiber)
        fiber = self.writer
        if fiber is not None and mask & self.writer_edge:
            self.loop.unpark(fiber)

    @coroutine
    def _park_reader(self, edge: int) -> Generator[None, Any, None]:
        if self.closed:
            raise closed_error()
        if self.reader is not None:
            raise RuntimeError("another fiber waits to read this stream")
        self.credit = BURST
        self.reader = self.loop.about_to_park()
        self.reader_edge = edge
        try:
            yield  # Loop.park, one call less deep
        finally:
            self.reader = None
        if self.closed:
            raise closed_error()

    @coroutine
    def _park_writer(self, edge: int) -> Generator[None, Any, None]:
        if self.closed:
            raise closed_error()
        if self.writer is not None:
            raise RuntimeError("another fiber waits to send on this stream")
        self.writer = self.loop.about_to_park()
        self.writer_edge = edge
        try:
            yield
        finally:
            self.writer = None
        if self.closed:
            raise closed_error()

    def _let_go(self) -> None:
        """Give back the descriptor, and wake who waits."""
        self.closed = True
        self.readable = self.writable = False
        self.loop.unregister(self.fd)
        self.sock.close()
        for fiber in (self.reader, self.writer):
            if fiber is not None:
                self.loop.unpark(fiber)


def closed_error() -> StreamClosed:
    """What every call after `close` raises."""
    return StreamClosed(errno.EBADF, "the stream is closed")
