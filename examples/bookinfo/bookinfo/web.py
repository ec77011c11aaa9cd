"""A small HTTP/1.1 server: keep-alive, one write a reply, a thread a connection."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

MAX_BODY = 64 * 1024
"""Bytes.  The largest body anyone sends here is a sign-in form."""


@dataclass(frozen=True, slots=True)
class Request:
    """``headers`` has lower-case names; ``path`` is without the query."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


App = Callable[[Request], Reply]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who served: shown on the page and in every JSON answer."""

    service: str
    version: str
    host: str

    def as_json(self) -> dict[str, str]:
        return {"service": self.service, "version": self.version, "host": self.host}


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode() + b"\n")


def error(status: int, message: str) -> Reply:
    return json_reply({"error": message}, status)


def request_of(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Request:
    """Split an origin-form target; of a repeated query name the last wins."""
    url = urlsplit(target)
    lowered = {name.lower(): value for name, value in headers.items()}
    return Request(method, url.path, dict(parse_qsl(url.query)), lowered, body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one write
    timeout = 75  # seconds of keep-alive idleness, above the mesh's own 3
    app: App

    def _serve(self) -> None:
        size = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not size.isdecimal() or int(size) > MAX_BODY:
            self.close_connection = True
            return self._send(error(411, f"send a Content-Length of at most {MAX_BODY} bytes"))
        body = self.rfile.read(int(size))
        return self._send(
            self.app(request_of(self.command, self.path, dict(self.headers.items()), body))
        )

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("content-type", reply.content_type)
        self.send_header("content-length", str(len(reply.body)))
        for name, value in reply.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = _serve

    def version_string(self) -> str:
        return "bookinfo"

    def log_message(self, format: str, *args: Any) -> None:
        """The mesh writes the access log."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        fault = sys.exc_info()[1]
        if not isinstance(fault, ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def server(app: App, address: str, port: int) -> ThreadingHTTPServer:
    """A bound server, not yet serving.  Port 0 lets the kernel choose.  Raises OSError."""
    handler = type("Handler", (_Handler,), {"app": staticmethod(app)})
    return _Server((address, port), handler)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def serve(app: App, address: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    signal.signal(signal.SIGTERM, _stop)
    with server(app, address, port) as bound:
        try:
            bound.serve_forever(poll_interval=60)
        except KeyboardInterrupt:
            return
