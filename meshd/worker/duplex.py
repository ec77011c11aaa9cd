"""A non-blocking socket with or without TLS, for one reading and one writing fiber.

Theory (of waiting: edges.py)
======
Fairness: a reader may take 16 reads or 256 KiB; then `try_recv` says None with the bit still set,
and `wait_readable` gives up the turn instead of parking. Whoever reads in the ordinary loop is
fair without doing anything for it.

Pending output belongs to the connection, not to the fiber that sends. After WantWrite OpenSSL
keeps a half-written record and takes the next buffer for its rest; a plain stream that was cut in
a buffer has lost its framing. So a send that ends early (cancelled, expired, failed) after the
first byte may be out makes the stream `broken`: it can only be closed. Until a send is done,
`_held` is its buffer and another one is refused.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from _ssl import ENCODING_DER
from array import array
from collections.abc import Callable, Generator
from fcntl import ioctl
from termios import FIONREAD
from types import coroutine
from typing import Any

from meshd.worker.edges import BURST, READ_EDGE, WRITE_EDGE, Edges, StreamClosed, closed_error
from meshd.worker.farewell import send_farewell
from meshd.worker.loop import Loop

Buffer = bytes | bytearray | memoryview

READ_SIZE = 65_536  # one read; with larger ones malloc maps fresh pages (21 us against 7)
RECORD = 16_384  # the most that a TLS record carries (RFC 8446, 5.1)
READ_COST = BURST // 16  # a small read counts for so much: at most 16 reads a turn
TLS_SLICE = 65_536  # SSL_write takes all or nothing, so large buffers go in slices
_unread = array("i", [0])  # FIONREAD's answer; one thread, so one is enough


class Stream(Edges):
    """A connected stream socket. It owns `sock` and registers it with the loop.

    At most one fiber reads and one writes at a time. Everything may raise OSError, of which
    ssl.SSLError and StreamClosed are kinds; after one in a send, or in any TLS call, the stream
    is `broken` and good for `close` or `abort` only.

    eof: the peer has ended its side; `ragged`: without the close_notify that TLS demands, so what
    came may be cut short. tls_alert: a read failed by the peer's alert. bytes_in, bytes_out: as
    the application sees them, without TLS framing.
    """

    __slots__ = (
        "__weakref__",
        "_ahead",
        "_bulk",
        "_farewell",
        "_held",
        "_late",
        "_read_wants_write",
        "_recv",
        "_send",
        "_stash",
        "_write_wants_read",
        "broken",
        "bytes_in",
        "bytes_out",
        "eof",
        "ragged",
        "tls",
        "tls_alert",
    )

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        super().__init__(loop, sock)
        self.tls: Any = None  # the _ssl._SSLSocket: SSLSocket's own methods cost 1 us more
        self.eof = self.ragged = self.broken = self.tls_alert = False
        self.bytes_in = self.bytes_out = 0
        self._read_wants_write = self._write_wants_read = False
        self._held: Buffer | None = None
        self._farewell: bytes | None = None  # close_notify on its way, b"" = our side has ended
        self._late: OSError | None = None  # what bulk.fill met behind the bytes it gave out
        self._stash = b""  # read, and to be given out again
        self._bulk = self._ahead = False  # see bulk.py
        self._recv: Callable[[int], bytes] = sock.recv
        self._send: Callable[[Buffer], int] = sock.send

    def __repr__(self) -> str:
        kind = "TLS" if self.tls is not None else "plain"
        state = "closed" if self.closed else "broken" if self.broken else "open"
        return f"<Stream {kind} fd {self.fd} {state}>"

    # Reading

    def try_recv(self, n: int = READ_SIZE) -> bytes | None:
        """What is there now, at most n bytes; b"" at the end; None: `wait_readable`, try again."""
        if not self.readable or self.credit <= 0:
            if self.closed:
                raise closed_error()
            return None
        try:
            data = self._recv(n)
        except (BlockingIOError, ssl.SSLWantReadError):
            self.readable = False
            return None
        except ssl.SSLWantWriteError:
            self.writable = False
            self._read_wants_write = True
            return None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as exc:
            return self._end_of_tls(exc)
        except OSError as exc:
            self._failed(exc)
            raise
        size = len(data)
        self.bytes_in += size
        self.credit -= size if size > READ_COST else READ_COST
        if not size:
            self.eof = True
        elif self._short_proves and size < n:
            if self.tls is None:
                self.readable = False
            elif size < RECORD and not self.tls.pending():
                ioctl(self.fd, FIONREAD, _unread)
                if not _unread[0]:
                    self.readable = False
        return data

    def _end_of_tls(self, exc: ssl.SSLError) -> bytes:
        """Without close_notify; or with it, after our own (before it, read gives b"")."""
        if isinstance(exc, ssl.SSLEOFError):
            self.ragged = True
            if exc.reason != "UNEXPECTED_EOF_WHILE_READING":  # a failed read(2), its errno lost
                self.broken = True
                raise ConnectionResetError(errno.ECONNRESET, "reset by peer") from exc
        self.eof = True
        self._recv = _at_end
        return b""

    async def recv(self, n: int = READ_SIZE) -> bytes:
        """At least one byte, at most n; b"" at the end. Does not suspend if there is data."""
        data = self.try_recv(n)
        while data is None:
            await self.wait_readable()
            data = self.try_recv(n)
        return data

    @coroutine
    def wait_readable(self) -> Generator[None, Any, None]:
        """Until an attempt to read may succeed. At once if it may already, unless credit is out.

        The wait for an edge is `_park_reader`, written out: a request waits here twice a hop.
        """
        if self._read_wants_write:
            self._read_wants_write = False
            while not self.writable:
                yield from self._park_reader(WRITE_EDGE)
        elif not self.readable:
            while not bool(self.readable):  # set by on_events, unseen by mypy
                if self.closed:  # closing clears `readable` for good, so this is the only look
                    raise closed_error()
                if self.reader is not None:
                    raise RuntimeError("another fiber waits to read this stream")
                self.credit = BURST
                self.reader = self.loop.about_to_park()
                self.reader_edge = READ_EDGE
                try:
                    yield
                finally:
                    self.reader = None
        elif self.credit <= 0:
            yield from self.loop.yield_turn()
            self.credit = BURST

    def readable_now(self) -> bool:
        """Whether a read would find something: data, the end, an error. Asks the kernel if needed.

        False for an idle connection proves it fit for reuse: no stray bytes, no end. What is read
        to find out (TLS: it may be no more than a ticket) is given out by the next read.
        """
        if not self.readable:
            return False
        self.credit = max(self.credit, READ_COST)
        try:
            data = self.try_recv(READ_SIZE if self.tls is None else RECORD)
        except OSError:
            return True
        if data is None:
            return self._read_wants_write
        self._unread(data)
        return True

    def _unread(self, data: bytes) -> None:
        """Give `data` out again before anything else."""
        recv = self._recv
        self.bytes_in -= len(data)
        self.eof = False
        self.readable = True
        self._short_proves = False  # of a stash it says nothing about the kernel
        self._stash = data

        def stashed(n: int) -> bytes:
            piece, self._stash = self._stash[:n], self._stash[n:]
            if not self._stash:
                self._recv = recv
            return piece

        self._recv = stashed

    # Writing

    def try_send(self, data: Buffer) -> int:
        """Bytes taken, 0 for none; with TLS all or none, and after 0 the same object again."""
        if not self.writable:
            if self.closed:
                raise closed_error()
            return 0
        if self._held is not None and self._held is not data:
            raise RuntimeError("another send is under way on this stream")
        try:
            sent = self._send(data)
        except BlockingIOError:
            self.writable = False
            return 0
        except ssl.SSLWantWriteError:
            self.writable = False
            self._held = data
            return 0
        except ssl.SSLWantReadError:
            self.readable = False
            self._write_wants_read = True
            self._held = data
            return 0
        except OSError as exc:
            self._failed(exc)
            raise
        self._held = None
        self.bytes_out += sent
        return sent

    async def send(self, data: Buffer) -> None:
        """All of it. Does not suspend if the kernel has room."""
        if self._held is not None or self.broken:
            self._refuse_send()
        size = len(data)
        sent = 0
        if 0 < size <= TLS_SLICE:
            sent = self.try_send(data)
        if sent != size:
            await self.send_rest(data, sent)

    async def send_rest(self, data: Buffer, done: int) -> None:
        """What `try_send` left of `data`, of which it took `done` bytes."""
        view = memoryview(data)
        most = BURST if self.tls is None else TLS_SLICE
        # What OpenSSL may already hold is retried as the same object.
        piece: Buffer = view[done : done + most] if self._held is None else self._held
        budget = BURST
        try:
            while piece:
                self._held = piece  # nobody else sends while this waits
                if budget <= 0:
                    await self.loop.yield_turn()
                    budget = BURST
                sent = 0 if self._write_wants_read else self.try_send(piece)
                if not sent:
                    await self.wait_writable()
                    budget = BURST
                    continue
                done += sent
                budget -= sent
                piece = view[done : done + most]
        except BaseException:
            # A TLS buffer that was only waiting counts as begun: OpenSSL may hold half of it.
            if done or self.tls is not None:
                self.broken = True
            raise
        finally:
            self._held = None

    async def wait_writable(self) -> None:
        """Until an attempt to send may succeed; at once if it may already."""
        if self._write_wants_read:
            self._write_wants_read = False
            while not self.readable:
                await self._park_writer(READ_EDGE)
        else:
            while not self.writable:
                await self._park_writer(WRITE_EDGE)

    def _refuse_send(self) -> None:
        if self.broken or self.closed:
            raise StreamClosed(errno.EPIPE, "an earlier send was cut short: close the stream")
        raise RuntimeError("another send is under way on this stream")

    def _failed(self, exc: OSError) -> None:
        self.broken = True
        self.tls_alert = isinstance(exc, ssl.SSLError) and "_ALERT_" in (exc.reason or "")

    # TLS

    def peer_chain(self) -> list[bytes]:
        """The verified chain in DER, leaf first, anchor last; empty if none was asked for."""
        return [cert.public_bytes(ENCODING_DER) for cert in self.tls.get_verified_chain() or ()]

    def alpn(self) -> str | None:
        """The protocol that both sides chose, None without TLS or agreement."""
        return None if self.tls is None else self.tls.selected_alpn_protocol()

    # The end

    def shutdown_write(self) -> bool:
        """End our side: FIN, with TLS a close_notify before it. Reading goes on.

        False: the kernel had no room for the close_notify; `wait_writable`, and call again.
        """
        if self.tls is not None and not self.broken and not send_farewell(self):
            return False
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise
        return True

    def _close_notify(self) -> None:
        """Best effort: whether the peer hears it is the peer's business."""
        try:
            self.tls.shutdown()
        except (OSError, ValueError):
            pass

    def close(self) -> None:
        """Orderly end: close_notify where TLS is intact, then close. Idempotent."""
        if self.closed:
            return
        intact = not self.broken and not self.ragged and self._held is None
        if self.tls is not None and intact and self._farewell is None:
            self._close_notify()
        self._let_go()

    def abort(self) -> None:
        """Reset: the peer sees an error, not an end. Idempotent."""
        if self.closed:
            return
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # it is a courtesy; the close follows anyway
        self._let_go()

    def _let_go(self) -> None:
        self._recv = self._send = _closed_call
        super()._let_go()
        if self.tls is not None:  # 41 kB of OpenSSL's: whatever still holds us need not hold them
            self.sock._sslobj = None  # type: ignore[attr-defined]
            self.tls = None


def without_frames(error: OSError) -> OSError:
    """An error to keep: with its traceback it would keep the frames, and these the stream.

    Such a cycle holds 41 kB of OpenSSL's until the collector comes by.  So does its cause's.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _at_end(_: int) -> bytes:
    return b""


def _closed_call(_: object) -> Any:
    raise closed_error()
