"""What a connection begins with, read without taking it (MSG_PEEK).

TLS reads its ClientHello again, a passed-through connection has it still to send, and
HTTP its first line: so looking must not consume.  The fiber's deadline bounds the wait.
"""

from __future__ import annotations

import socket

from meshd.worker.loop import DeadlineExceeded
from meshd.worker.stream import Stream
from meshkit.http.sniff import Protocol, sniff
from meshkit.identity.clienthello import (
    ClientHello,
    ClientHelloError,
    missing_bytes,
    parse_client_hello,
)

PEEK_BYTES = 16_384
"""A ClientHello is at most one or a few records; more is no client of ours."""


class NotServed(Exception):
    """Close this connection; `reason` is the counter's label, `detail` for the log."""

    def __init__(self, reason: str, detail: str = "", reset: bool = False) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail
        self.reset = reset


async def peek(stream: Stream, seen: int) -> bytes:
    """What the socket holds, when that is more than `seen` bytes; no more = the peer has ended."""
    while True:
        try:
            data = stream.sock.recv(PEEK_BYTES, socket.MSG_PEEK)
            ended = not data
        except BlockingIOError:
            data, ended = b"", False
        if len(data) > seen or ended or stream.hup or len(data) >= PEEK_BYTES:
            stream.readable = True  # all of it is still to be read
            return data
        stream.readable = False  # what is there was seen; more comes with a new edge
        await stream.wait_readable()


async def hello_of(stream: Stream) -> ClientHello:
    """The ClientHello, left in the socket.  Raises NotServed."""
    seen = 0
    while True:
        data = await peek(stream, seen)
        try:
            hello = parse_client_hello(data)
        except ClientHelloError as error:
            raise NotServed("bad_client_hello", str(error)) from error
        if hello is not None:
            return hello
        if len(data) >= PEEK_BYTES:
            raise NotServed("bad_client_hello", "ClientHello larger than 16 KiB")
        if len(data) <= seen:
            what = "within its ClientHello" if data else "before a ClientHello"
            raise NotServed("no_client_hello", f"closed {what}")
        seen = len(data) + missing_bytes(data) - 1


async def protocol_of(stream: Stream, seconds: float) -> Protocol | None:
    """What an AUTO port's client speaks; None: it has said nothing for so long.

    The deadline of the fiber is this one's from here on.
    """
    fiber, loop = stream.loop.current, stream.loop
    fiber.expires = loop.now + seconds
    loop.arm(fiber)
    seen = 0
    try:
        while True:
            data = await peek(stream, seen)
            verdict = sniff(data)
            if verdict is not None:
                return verdict
            if len(data) <= seen:
                return "tcp"  # it has ended before it could be told
            seen = len(data)
    except DeadlineExceeded:
        return None
    finally:
        stream.readable = True
        fiber.expires = 0.0
