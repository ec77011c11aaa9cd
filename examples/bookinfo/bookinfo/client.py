"""Calls to the next service: keep-alive, and the caller's headers passed on."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

FORWARDED = (
    "x-request-id",
    "traceparent",
    "tracestate",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "end-user",
    "user-agent",
)
"""What ties one request's hops together; a proxy cannot know which of its calls belong."""

TIMEOUT = 10.0
"""Seconds for connecting and between two reads."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` 0 = nobody answered; ``value`` is the JSON body, or None."""

    status: int
    value: Any

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.value is not None


class Fetch(Protocol):
    """How a service calls another: `Client.get`, or a test's stand-in."""

    def __call__(self, path: str, headers: Mapping[str, str]) -> Answer: ...


def forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an incoming request that every call made for it carries."""
    return {name: headers[name] for name in FORWARDED if name in headers}


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Client:
    """Calls ``url``, directly or through an HTTP proxy, a connection a thread.

    ``proxy`` is ``host:port``; requests then go there in absolute form, as any
    HTTP client does under ``http_proxy``.
    """

    def __init__(self, url: str, proxy: str = "") -> None:
        self._url = url.rstrip("/")
        where = urlsplit(f"//{proxy}" if proxy else url)
        if not where.hostname:
            raise ValueError(f"{proxy or url!r} names no host; write http://HOST:PORT")
        self._address, self._port = where.hostname, where.port or 80
        self._absolute = bool(proxy)
        self._local = threading.local()

    def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        """GET; a reused connection that died is replaced once.  Never raises."""
        try:
            return self._try(path, headers)
        except (OSError, http.client.HTTPException):
            if not self._drop():
                return Answer(0, None)
        try:
            return self._try(path, headers)
        except (OSError, http.client.HTTPException):
            self._drop()
            return Answer(0, None)

    def _try(self, path: str, headers: Mapping[str, str]) -> Answer:
        connection = self._connection()
        target = self._url + path if self._absolute else urlsplit(self._url).path + path
        connection.request("GET", target, headers=dict(headers))
        response = connection.getresponse()
        body = response.read()
        self._local.used = True
        return Answer(response.status, _parsed(body))

    def _connection(self) -> _Connection:
        held: _Connection | None = getattr(self._local, "connection", None)
        if held is None:
            held = _Connection(self._address, self._port, timeout=TIMEOUT)
            self._local.connection, self._local.used = held, False
        return held

    def _drop(self) -> bool:
        """Close this thread's connection; True when it had served before."""
        used: bool = getattr(self._local, "used", False)
        self._connection().close()
        self._local.connection = None
        return used


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
