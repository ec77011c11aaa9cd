"""HTTP/1.1 of the control plane: h11 over trio TLS, JSON in, JSON or NDJSON out.

A ready ASGI server on trio does not give the application the client's
certificate, so the connection is handled here; h11 does the protocol.  One task a
connection; while a stream is being written, a second one watches for the
client's going away.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11
import trio

from ca.faults import Fault, invalid
from ca.tls import verified_chain

MAX_HEAD = 16 * 1024
"""Bytes: our own clients send under 1 KiB."""
MAX_BODY = 4 << 20
"""Bytes: a bundle of four of the largest YAML texts."""
MAX_CONNECTIONS = 4096
"""Two streams and one connection for calls a host: a thousand hosts and a reserve."""
MAX_HANDSHAKES = 256
"""Unfinished at once: the only state that costs a stranger nothing."""
HANDSHAKE_TIMEOUT = 10.0
IDLE_TIMEOUT = 75.0
HEAD_TIMEOUT = 10.0
BODY_TIMEOUT = 60.0
SEND_TIMEOUT = 30.0
"""Seconds for one message to be taken: a reader that stops is let go, it will come back."""
CLOSE_TIMEOUT = 2.0
LINGER = 1.0
_CHUNK = 65536
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it came.  ``chain`` is the client's verified chain, DER; empty = none."""

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    body: Any
    chain: tuple[bytes, ...]
    peer: str


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer that is written message by message until ``run`` returns."""

    run: Callable[[Send], Awaitable[None]]


Answer = Mapping[str, Any] | Streamed
Handler = Callable[[Request], Awaitable[Answer]]


class _Closed(Exception):
    """The peer is gone, or is not worth an answer."""


@dataclass(slots=True)
class Gate:
    """How many connections there are, and how many still shake hands."""

    connections: int = 0
    handshakes: int = 0

    def is_full(self) -> bool:
        return self.connections >= MAX_CONNECTIONS or self.handshakes >= MAX_HANDSHAKES


@dataclass(slots=True)
class Connection:
    """One TLS connection after its handshake."""

    stream: trio.SSLStream[trio.SocketStream]
    handler: Handler
    chain: tuple[bytes, ...]
    peer: str
    http: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    )

    async def serve(self) -> None:
        """Answer requests until either side has had enough."""
        with contextlib.suppress(_Closed, *_GONE):
            while await self._serve_one():
                self.http.start_next_cycle()
            await self._linger()

    async def _serve_one(self) -> bool:
        try:
            request = await self._read()
            answer = await self.handler(request)
        except Fault as fault:
            await self._send_json(fault.status, fault.to_json())
        except h11.RemoteProtocolError as error:
            bad = Fault(error.error_status_hint, "malformed_http", str(error), "speak HTTP/1.1")
            await self._send_json(bad.status, bad.to_json(), close=True)
        else:
            if isinstance(answer, Streamed):
                await self._send_stream(answer)
            else:
                await self._send_json(200, answer)
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    async def _read(self) -> Request:
        head = await self._read_head()
        body = await self._read_body()
        # Not urlsplit: it raises for targets that look like a broken URL.
        path, _, query = head.target.decode("ascii", "replace").partition("?")
        return Request(
            head.method.decode("ascii"),
            tuple(unquote(part) for part in path.split("/")[1:]),
            dict(parse_qsl(query, keep_blank_values=True)),
            _decode(body),
            self.chain,
            self.peer,
        )

    async def _read_head(self) -> h11.Request:
        event = self.http.next_event()
        if event is h11.NEED_DATA:
            with trio.fail_after(IDLE_TIMEOUT):
                await self._receive()
            with trio.fail_after(HEAD_TIMEOUT):
                event = await self._next_event()
        if not isinstance(event, h11.Request):
            raise _Closed
        return event

    async def _read_body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        with trio.fail_after(BODY_TIMEOUT):
            while True:
                if self.http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                event = await self._next_event()
                if isinstance(event, h11.EndOfMessage):
                    return b"".join(parts)
                if not isinstance(event, h11.Data):
                    raise _Closed
                size += len(event.data)
                if size > MAX_BODY:
                    raise Fault(413, "body_too_large", f"the body is over {MAX_BODY} bytes",
                                "split it into several calls")  # fmt: skip
                parts.append(bytes(event.data))

    async def _next_event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            await self._receive()
        return event

    async def _receive(self) -> None:
        self.http.receive_data(bytes(await self.stream.receive_some(_CHUNK)))

    async def _send(self, *events: Any) -> None:
        data = b"".join(self.http.send(event) or b"" for event in events)
        with trio.fail_after(SEND_TIMEOUT):
            await self.stream.send_all(data)

    async def _send_json(self, status: int, body: Mapping[str, Any], close: bool = False) -> None:
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        # A body that was not read to its end makes the connection useless.
        if close or self.http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        await self._send(
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=data),
            h11.EndOfMessage(),
        )

    async def _send_stream(self, answer: Streamed) -> None:
        headers = [("Content-Type", "application/x-ndjson"), ("Cache-Control", "no-store")]
        await self._send(h11.Response(status_code=200, headers=headers))
        whole = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            # Caught here, because a nursery would wrap them.
            with contextlib.suppress(*_GONE):
                await answer.run(self._send_message)
                whole = True
            nursery.cancel_scope.cancel()
        if not whole:
            raise _Closed
        await self._send(h11.EndOfMessage())

    async def _send_message(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":"), ensure_ascii=False) + "\n"
        await self._send(h11.Data(data=line.encode()))

    async def _watch(self, scope: trio.CancelScope) -> None:
        """End the stream when the client goes away, or talks out of turn."""
        with contextlib.suppress(*_GONE):
            await self.stream.receive_some(1)
        scope.cancel()

    async def _linger(self) -> None:
        """Take a little of what still comes: closing on unread data would destroy our answer."""
        with trio.move_on_after(LINGER), contextlib.suppress(*_GONE):
            while self.http.their_state is h11.SEND_BODY and (
                await self.stream.receive_some(_CHUNK)
            ):
                pass


def _decode(body: bytes) -> Any:
    """JSON in strict UTF-8.

    Half of a surrogate pair (``\\ud800``) is JSON but no text: it cannot be written
    again, so a name that held one would end every stream that carries it.
    """
    if not body:
        return {}
    try:
        text = body.decode()
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise invalid("the body is not JSON", "send one JSON object in UTF-8") from error


async def serve_connection(
    tcp: trio.SocketStream,
    tls: Any,
    handler: Handler,
    gate: Gate,
    refused: Callable[[str, str], None],
) -> None:
    """Shake hands and serve; ``refused(peer, reason)`` is told of what got no further."""
    peer = _peer(tcp)
    stream = trio.SSLStream(tcp, tls, server_side=True, https_compatible=True)
    gate.handshakes += 1
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        refused(peer, _why(error))
        await _tell(tcp, stream)
        await trio.aclose_forcefully(stream)
        return
    finally:
        gate.handshakes -= 1
    chain = tuple(verified_chain(stream._ssl_object))
    try:
        await Connection(stream, handler, chain, peer).serve()
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await stream.aclose()


async def _tell(tcp: trio.SocketStream, stream: Any) -> None:
    """Send the alert that OpenSSL made: trio leaves it in the buffer of a failed handshake.

    Without it the peer learns that it was refused, but not that its certificate expired.
    """
    with trio.move_on_after(CLOSE_TIMEOUT), contextlib.suppress(*_GONE):
        await tcp.send_all(stream._outgoing.read())
        await tcp.send_eof()


def _why(error: Exception) -> str:
    cause = error.__cause__
    if cause is None:
        return "handshake_timeout"
    return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause)


def _peer(tcp: trio.SocketStream) -> str:
    try:
        address = tcp.socket.getpeername()
    except OSError:
        return "unknown"
    return f"{address[0]}:{address[1]}"
