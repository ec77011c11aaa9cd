"""A small HTTP/1.1 server for admin, metrics and readiness: h11 over any trio stream.

It serves operators and scrapers on this host, one request at a time on a
connection, bodies bounded; the data path never comes here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import h11
import trio

IDLE = 75.0
"""Seconds for the next request on a kept connection to begin."""
REQUEST = 10.0
"""Seconds for a request that has begun to arrive whole."""
SEND = 30.0
"""Seconds for an answer to be taken."""
MAX_BODY = 1 << 20
READ = 65536
MAX_CONNECTIONS = 256
"""Of one listener: each costs the agent a descriptor and a task, and workers none."""
MAX_OF_ONE_SOURCE = 64
"""Of one client address: a flood from one leaves room for the scraper at another."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = field(default=())


Handler = Callable[[Request], Awaitable[Reply]]
Failed = Callable[[Exception], None]


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value, indent=2, default=str).encode() + b"\n")


def text_reply(text: str, status: int = 200) -> Reply:
    return Reply(status, text.encode(), "text/plain; charset=utf-8")


def error_reply(status: int, code: str, message: str, remedy: str) -> Reply:
    return json_reply({"error": {"code": code, "message": message, "remedy": remedy}}, status)


class Router:
    """Exact paths only; an unknown one lists those there are."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[str, str], Handler] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        self._handlers[method, path] = handler

    async def __call__(self, request: Request) -> Reply:
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._handlers.get((method, request.path))
        if handler is not None:
            return await handler(request)
        if any(path == request.path for _, path in self._handlers):
            return error_reply(
                405, "method", f"{request.method} is not allowed here", "see docs/meshd.md"
            )
        known = ", ".join(sorted(path for _, path in self._handlers))
        return error_reply(404, "not_found", f"no {request.path} here", f"paths: {known}")


class Gate:
    """How many connections a listener has, and from where."""

    def __init__(self, most: int = MAX_CONNECTIONS, of_one: int = MAX_OF_ONE_SOURCE) -> None:
        self._most, self._of_one = most, of_one
        self._sources: Counter[str] = Counter()

    def enter(self, source: str) -> bool:
        """True if there is room for one more from ``source`` ("" = local, not limited apart)."""
        if self._sources.total() >= self._most or (
            source and self._sources[source] >= self._of_one
        ):
            return False
        self._sources[source] += 1
        return True

    def leave(self, source: str) -> None:
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]


async def serve_connection(
    stream: trio.abc.Stream, handler: Handler, failed: Failed | None = None
) -> None:
    """Serve one connection to its end; nothing that happens on it goes further up.

    ``failed`` is told of a mistake of ours, which the client sees as a 500.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=READ)
    async with stream:
        try:
            while await _serve_one(stream, connection, handler, failed):
                connection.start_next_cycle()
        except (h11.ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return


async def _serve_one(
    stream: trio.abc.Stream, connection: h11.Connection, handler: Handler, failed: Failed | None
) -> bool:
    """Answer one request; False when the connection is over."""
    with trio.move_on_after(IDLE) as scope:
        request = await _read(stream, connection, scope)
    if scope.cancelled_caught or request is None:
        return False
    try:
        reply = await handler(request)
    except Exception as error:
        # One request's failure must not end the agent.
        if failed is not None:
            failed(error)
        reply = error_reply(500, "internal", "the agent failed", "its log has the details")
    with trio.move_on_after(SEND) as scope:
        await _write(stream, connection, request.method, reply)
    if scope.cancelled_caught:
        return False
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE


async def _read(
    stream: trio.abc.Stream, connection: h11.Connection, scope: trio.CancelScope
) -> Request | None:
    """The next request; None where there is none.  ``scope`` is cut short once it begins."""
    head: h11.Request | None = None
    body = bytearray()
    begun = False
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            await _send_continue(stream, connection)
            connection.receive_data(bytes(await stream.receive_some(READ)))
            if not begun:
                begun, scope.deadline = True, trio.current_time() + REQUEST
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                return None
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            return None


async def _send_continue(stream: trio.abc.Stream, connection: h11.Connection) -> None:
    if connection.they_are_waiting_for_100_continue:
        interim = h11.InformationalResponse(status_code=100, headers=[])
        await stream.send_all(connection.send(interim))


def _request(head: h11.Request, body: bytes) -> Request:
    # Not urlsplit: it raises for targets that look like a broken URL.
    path, _, query = head.target.decode("ascii", "replace").partition("?")
    parsed = dict(parse_qsl(query, keep_blank_values=True))
    return Request(head.method.decode("ascii"), path, parsed, body)


async def _write(
    stream: trio.abc.Stream, connection: h11.Connection, method: str, reply: Reply
) -> None:
    headers = [
        ("Content-Type", reply.content_type),
        ("Content-Length", str(len(reply.body))),
        ("Cache-Control", "no-store"),
        *reply.headers,
    ]
    data = connection.send(h11.Response(status_code=reply.status, headers=headers))
    if method != "HEAD":
        data += connection.send(h11.Data(data=reply.body))
    await stream.send_all(data + connection.send(h11.EndOfMessage()))
