"""Requests from outside the mesh's own code, and load that keeps every failure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any

TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` 0: no answer; ``body`` then says why.  Header names are lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def name(self) -> str:
        """Which application answered; "" where none did."""
        return str(self.json["name"]) if self.status == 200 else ""

    def __str__(self) -> str:
        return f"{self.status} {self.body[:200]!r}"


def exchange(
    connection: HTTPConnection,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> Answer:
    """One request on a connection that stays open."""
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        told = {key.lower(): value for key, value in answer.getheaders()}
        return Answer(answer.status, answer.read(), told)
    except (OSError, HTTPException) as error:
        connection.close()
        return Answer(0, repr(error).encode())


def fetch(
    address: str,
    port: int,
    target: str = "/",
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> Answer:
    """One request on a connection of its own."""
    connection = HTTPConnection(address, port, timeout=TIMEOUT)
    try:
        return exchange(connection, target, headers, method=method, body=body)
    finally:
        connection.close()


class Load:
    """``threads`` that call ``send`` again and again while the block runs.

    ``good``: how many were answered 200; ``bad``: every other answer; ``gap``: the
    longest time in seconds without a good one.
    """

    def __init__(self, send: Callable[[], Answer], threads: int = 2, pause: float = 0.01) -> None:
        self.good = 0
        self.bad: list[str] = []
        self.gap = 0.0
        self._send, self._pause = send, pause
        self._last = time.monotonic()
        self._ended, self._lock = Event(), Lock()
        self._threads = [Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Load:
        self._last = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._note(self._send())
            self._ended.wait(self._pause)

    def _note(self, answer: Answer) -> None:
        with self._lock:
            now = time.monotonic()
            if answer.status == 200:
                self.good += 1
                self.gap, self._last = max(self.gap, now - self._last), now
            else:
                self.bad.append(str(answer))

    def assert_none_failed(self, at_least: int = 20) -> None:
        assert not self.bad, f"{len(self.bad)} of {self.good + len(self.bad)}: {self.bad[:5]}"
        assert self.good >= at_least, f"only {self.good} requests: the load did not run"
