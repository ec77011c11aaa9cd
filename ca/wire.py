"""One verified connection to the policy server, its messages, and what can go wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import h11
import trio

SILENCE = 45.0
"""Seconds without a message after which a stream is given up: three pings missed."""
REUSE = 20.0
MAX_AGE = 300.0
"""Seconds after which a connection is replaced: certificates and roots change."""
MAX_ANSWER = 64 << 20
"""Bytes of an answer, or of one message: the policy of a very large mesh."""
_CHUNK = 65536
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, h11.RemoteProtocolError)


class APIError(Exception):
    """The server said no.  ``problems`` are those of an applied bundle."""

    def __init__(
        self, status: int, code: str, message: str, remedy: str = "", problems: Sequence[Any] = ()
    ) -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.status = status
        self.code = code
        self.message = message
        self.remedy = remedy
        self.problems = list(problems)


class Unreachable(Exception):
    """No answer.  ``reason``: connect, timeout, tls, certificate_refused, identity, broken."""

    def __init__(self, reason: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.reason = reason
        self.message = message
        self.remedy = remedy


class Wire:
    """One verified connection and its HTTP state."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], host: str, now: float) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)
        self.host = host
        self.born = self.used = now

    async def send(self, method: str, target: str, body: bytes | None) -> None:
        headers = [("Host", self.host), ("Accept", "application/json")]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        events = [h11.Request(method=method, target=target, headers=headers)]
        data = b"".join(self.http.send(event) or b"" for event in events)
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        await self.stream.send_all(data + (self.http.send(h11.EndOfMessage()) or b""))

    async def event(self) -> Any:
        """The next event of the answer, 1xx left out."""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(bytes(await self.stream.receive_some(_CHUNK)))
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("the server closed the connection")
            elif not isinstance(event, h11.InformationalResponse):
                return event

    async def body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while isinstance(event := await self.event(), h11.Data):
            parts.append(bytes(event.data))
            size += len(event.data)
            if size > MAX_ANSWER:
                raise trio.BrokenResourceError(f"the answer is over {MAX_ANSWER} bytes")
        return b"".join(parts)

    def is_fresh(self, now: float) -> bool:
        """Whether another call may go over it: rested shortly, young, nothing unread."""
        return (
            self.http.our_state is h11.IDLE
            and now - self.used < REUSE
            and now - self.born < MAX_AGE
            and not _has_news(self.stream.transport_stream)
        )

    async def close(self) -> None:
        with trio.move_on_after(1, shield=True):
            await self.stream.aclose()


def _has_news(tcp: trio.SocketStream) -> bool:
    """Whether an idle socket has bytes or an end to read: the server is closing it."""
    if tcp.socket.fileno() < 0:
        return True
    raw = socket.socket(fileno=tcp.socket.fileno())
    try:
        raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        raw.detach()
    return True


class Messages:
    """The messages of one stream; ends when the server ends it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = bytearray()
        self._searched = 0

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """The next message.  Unreachable when the connection broke or fell silent."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            event = await self._event()
            if not isinstance(event, h11.Data):
                raise StopAsyncIteration
            self._buffer += event.data
            if len(self._buffer) > MAX_ANSWER:
                raise Unreachable("broken", f"a message is over {MAX_ANSWER} bytes")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return read_object(line)

    async def _event(self) -> Any:
        try:
            with trio.fail_after(SILENCE):
                return await self._wire.event()
        except trio.TooSlowError:
            raise Unreachable("timeout", f"nothing came for {SILENCE:g} s") from None
        except BROKEN as error:
            raise Unreachable("broken", f"the stream broke: {cause_of(error)}") from error


def read_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Unreachable("broken", "the server's answer is not JSON") from error
    if not isinstance(value, dict):
        raise Unreachable("broken", "the server's answer is not a JSON object")
    return value


def api_error(status: int, answer: bytes) -> APIError:
    try:
        error = json.loads(answer)["error"]
        return APIError(
            status, error["code"], error["message"], error.get("remedy", ""), error["problems"]
        )
    except (ValueError, KeyError, TypeError):
        return APIError(status, "unknown", f"the server answered {status} without an explanation")


@contextlib.contextmanager
def breaking(address: str) -> Any:
    """A connection that breaks during a call, told in the client's words."""
    try:
        yield
    except BROKEN as error:
        raise tls_fault(address, error) from error


def tls_fault(address: str, error: BaseException) -> Unreachable:
    """In TLS 1.3 the refusal of our certificate comes with the first read."""
    cause = error.__cause__ or error
    reason = str(getattr(cause, "reason", "") or "")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Unreachable(
            "identity",
            f"{address} cannot be verified: {cause.verify_message}",
            "check the address, and that the roots are those of this mesh",
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "CA" in reason.split("_")):
        return Unreachable(
            "certificate_refused",
            f"{address} refused our certificate: {reason.lower().replace('_', ' ')}",
            "renew it, or join again with a new token",
        )
    kind = "tls" if isinstance(cause, ssl.SSLError) else "broken"
    return Unreachable(kind, f"the connection to {address} broke: {cause_of(error)}", "try again")


def cause_of(error: BaseException) -> str:
    """What went wrong, in the system's words; of several attempts, that of the last."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    if isinstance(cause, OSError) and cause.strerror:
        # trio puts the address before the reason; ssl and getaddrinfo number their own.
        numbered = not isinstance(cause, ssl.SSLError | socket.gaierror)
        known = numbered and cause.errno in errno.errorcode
        return os.strerror(cause.errno) if known and cause.errno else cause.strerror
    return str(cause) or type(cause).__name__
