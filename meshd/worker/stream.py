"""How a stream comes to be: connect, and the TLS handshake.

TLS works on the non-blocking descriptor itself, never through a memory BIO. wrap_socket makes a
new socket object of the same descriptor, so the loop's registration stays, and bytes that were
only peeked at (the ClientHello) are read again.

In TLS 1.3 the client is done before the server has judged its certificate: the refusal comes as
an alert at the client's first read. A server that refuses and closes at once would often not be
heard, for closing with unread bytes resets the connection, and a reset overtakes the alert; so a
failed server reads on for a moment.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from math import inf
from typing import Any

from meshd.worker.duplex import READ_SIZE, Stream
from meshd.worker.edges import StreamClosed
from meshd.worker.loop import DeadlineExceeded, Loop

__all__ = ["ConnectTimeout", "Stream", "StreamClosed", "connect", "start_tls"]

LINGER_SECONDS = 1.0  # for the peer of a refused handshake to read the alert
LINGER_BYTES = 65_536  # and what is dropped meanwhile


class ConnectTimeout(TimeoutError):
    """`connect`'s own timeout, as against the fiber's deadline."""


async def start_tls(
    stream: Stream,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | None = None,
) -> None:
    """Handshake on the stream's own descriptor; the fiber's deadline bounds it.

    Bytes left in the socket by MSG_PEEK are read again. OSError (mostly ssl.SSLError) when it
    fails; the stream is broken then, and a server has given the peer time to read the alert.
    """
    try:
        wrapped = context.wrap_socket(
            stream.sock,
            server_side=server_side,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
    except BaseException:  # it has closed the socket
        stream._let_go()
        raise
    stream.sock = wrapped
    stream.tls = tls = wrapped._sslobj  # type: ignore[attr-defined]
    stream.broken = True  # until the handshake is done: nothing to say goodbye to
    if tls is None:
        raise ConnectionResetError(errno.ECONNRESET, "the peer left before the handshake")
    stream.readable = stream.writable = True
    try:
        await _handshake(stream, tls)
    except OSError:
        if server_side:
            await _linger(stream)
        raise
    stream._recv = tls.read
    stream._send = tls.write
    stream.broken = False


async def _handshake(stream: Stream, tls: Any) -> None:
    while True:
        try:
            tls.do_handshake()
            return
        except ssl.SSLWantReadError:
            stream.readable = False
            await stream.wait_readable()
        except ssl.SSLWantWriteError:
            stream.writable = False
            await stream.wait_writable()


async def _linger(stream: Stream) -> None:
    """Closing with unread bytes resets, and the reset overtakes the alert: read them first."""
    fiber, loop = stream.loop.current, stream.loop
    deadline = fiber.expires
    fiber.expires = min(deadline or inf, loop.now + LINGER_SECONDS)
    loop.arm(fiber)
    raw_recv = socket.socket.recv
    dropped = 0
    try:
        stream.sock.shutdown(socket.SHUT_WR)
        while dropped < LINGER_BYTES:
            try:
                data = raw_recv(stream.sock, READ_SIZE)
            except BlockingIOError:
                stream.readable = False
                await stream.wait_readable()
                continue
            if not data:
                break
            dropped += len(data)
    except (OSError, DeadlineExceeded):
        pass  # it has had its chance
    finally:
        fiber.expires = deadline
        loop.arm(fiber)


async def connect(loop: Loop, address: str, port: int, *, timeout: float) -> Stream:
    """A connection to an IP address, TCP_NODELAY set. OSError; ConnectTimeout after `timeout`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.inet_pton(family, address.partition("%")[0])
    except (OSError, ValueError):
        # connect(2) on a name would look it up, and stop the loop while DNS is silent.
        raise OSError(errno.EINVAL, f"not an IP address: {address!r}") from None
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex((address, port))
        if code not in (0, errno.EINPROGRESS):
            raise _connect_error(code, address, port)
        # Registered only now: an unconnected socket would report a hang-up.
        stream = Stream(loop, sock)
    except BaseException:
        sock.close()
        raise
    if code == 0:
        return stream
    try:
        await _connected(stream, address, port, timeout)
    except BaseException:
        stream.close()
        raise
    return stream


async def _connected(stream: Stream, address: str, port: int, timeout: float) -> None:
    fiber, loop = stream.loop.current, stream.loop
    deadline, limit = fiber.expires, loop.now + timeout
    own = not deadline or limit < deadline
    if own:
        fiber.expires = limit
        loop.arm(fiber)
    stream.readable = stream.writable = False
    try:
        await stream.wait_writable()
    except DeadlineExceeded:
        if not own:
            raise
        deadline_text = f"no answer from {address} port {port} in {timeout:g} s"
        raise ConnectTimeout(errno.ETIMEDOUT, deadline_text) from None
    finally:
        if own:
            fiber.expires = deadline
            loop.arm(fiber)
    code = stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise _connect_error(code, address, port)
    if stream.sock.getsockname()[:2] == stream.sock.getpeername()[:2]:
        # A port of the ephemeral range with no listener: TCP can connect it to itself.
        raise _connect_error(errno.ECONNREFUSED, address, port)


def _connect_error(code: int, address: str, port: int) -> OSError:
    return OSError(code, f"{os.strerror(code)}: {address} port {port}")
