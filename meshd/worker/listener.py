"""A listening socket whose backlog one fiber accepts from."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

from meshd.worker.edges import StreamClosed
from meshd.worker.loop import Fiber, Loop

ACCEPTS_A_TURN = 32  # a flood of connections must not starve those that are served already
PAUSE_SECONDS = 0.1  # for descriptors or memory to come back; the backlog queues meanwhile
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# accept(2): the connection died in the queue, or a network error is passed on; take the next.
_PASSING = (
    errno.ECONNABORTED,
    errno.EINTR,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENONET,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.ETIMEDOUT,
)


class Listener:
    """Accepts for one fiber. `sock` stays its owner's, who closes it after `close`.

    `exhausted` counts the pauses for want of descriptors or memory, `accepted` the connections.
    `paused` is called at each pause.
    """

    __slots__ = (
        *("_credit", "accepted", "closed", "exhausted", "loop", "paused", "readable", "sock"),
        "waiter",
    )

    def __init__(
        self, loop: Loop, sock: socket.socket, paused: Callable[[], object] = lambda: None
    ) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit it
        self.loop = loop
        self.sock = sock
        self.accepted = 0
        self.exhausted = 0
        self.paused = paused
        self.closed = False
        self.readable = True
        self.waiter: Fiber | None = None
        self._credit = ACCEPTS_A_TURN
        loop.register(sock.fileno(), self)

    def on_events(self, _mask: int) -> None:
        """The loop's edge: one may stand for many connections."""
        self.readable = True
        if self.waiter is not None:
            self.loop.unpark(self.waiter)

    async def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, non-blocking, and its peer's address. StreamClosed after close."""
        if not self._credit:
            await self.loop.yield_turn()
            self._credit = ACCEPTS_A_TURN
        while True:
            if self.closed:
                raise StreamClosed(errno.EBADF, "the listener is closed")
            if not self.readable:
                await self._park()
                continue
            try:
                sock, address = self.sock.accept()
            except BlockingIOError:
                self.readable = False
            except OSError as exc:
                await self._excuse(exc)
            else:
                sock.setblocking(False)
                self._credit -= 1
                self.accepted += 1
                return sock, address

    async def _excuse(self, exc: OSError) -> None:
        """No accept, yet no reason to stop: wait a little, or go on. Raises what is neither."""
        if exc.errno in _EXHAUSTED:
            self.exhausted += 1
            self.paused()
            await self.loop.sleep(PAUSE_SECONDS)  # no edge tells that descriptors are back
        elif exc.errno not in _PASSING:
            raise exc

    async def _park(self) -> None:
        if self.waiter is not None:
            raise RuntimeError("another fiber accepts from this listener")
        self._credit = ACCEPTS_A_TURN
        self.waiter = self.loop.current
        try:
            await self.loop.park()
        finally:
            self.waiter = None

    def close(self) -> None:
        """Stop accepting. Closing the socket then resets what is queued on it, if it is the last
        copy; that is for its owner to decide."""
        if self.closed:
            return
        self.closed = True
        self.loop.unregister(self.sock.fileno())  # -1, and nothing to do, if closed before
        if self.waiter is not None:
            self.loop.unpark(self.waiter)
