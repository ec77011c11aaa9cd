"""Who is connected, what each host last reported, and who waits for an answer.

Nothing here is on disk: after a restart every host connects and reports again
within seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

MAX_QUERIES = 16
"""Unanswered queries to one host."""


class Bell:
    """Wakes whoever waits: `heard` returns once it has rung since the count given."""

    def __init__(self) -> None:
        self.count = 0
        self._event = trio.Event()

    def ring(self) -> None:
        self.count += 1
        self._event.set()
        self._event = trio.Event()

    async def heard(self, since: int) -> None:
        if self.count == since:
            await self._event.wait()


@dataclass(slots=True, eq=False)
class Session:
    """One open policy stream.  ``queries`` wait to be written to it."""

    who: str
    host: str = ""
    bell: Bell = field(default_factory=Bell)
    queries: deque[dict[str, Any]] = field(default_factory=deque)
    replaced: bool = False


@dataclass(slots=True)
class Report:
    """A host's last report, as it came, and when (seconds since 1970)."""

    body: Mapping[str, Any]
    seen: float


@dataclass(slots=True, eq=False)
class _Waiting:
    host: str
    answered: trio.Event = field(default_factory=trio.Event)
    answer: Any = None


class NotConnected(Exception):
    """The host has no open stream, or too many queries wait for it."""


@dataclass(slots=True)
class Hub:
    sessions: set[Session] = field(default_factory=set)
    reports: dict[str, Report] = field(default_factory=dict)
    _hosts: dict[str, Session] = field(default_factory=dict)
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _last_query: int = 0

    def open(self, who: str, host: str = "") -> Session:
        """A new stream.  A host has one: the older is a connection it gave up on."""
        session = Session(who, host)
        self.sessions.add(session)
        if host:
            self.drop(host)
            self._hosts[host] = session
        return session

    def drop(self, host: str) -> None:
        """End the stream of a host, if it has one."""
        old = self._hosts.pop(host, None)
        if old is not None:
            old.replaced = True
            old.bell.ring()

    def close(self, session: Session) -> None:
        self.sessions.discard(session)
        if self._hosts.get(session.host) is session:
            del self._hosts[session.host]

    def ring(self) -> None:
        """Something that streams carry has changed."""
        for session in self.sessions:
            session.bell.ring()

    def is_connected(self, host: str) -> bool:
        return host in self._hosts

    def report(self, host: str, body: Mapping[str, Any], now: float) -> None:
        self.reports[host] = Report(body, now)

    async def query(self, host: str, question: Mapping[str, Any], timeout: float) -> Any:
        """Ask a host over its stream.  NotConnected, trio.TooSlowError."""
        session = self._hosts.get(host)
        if session is None or len(session.queries) >= MAX_QUERIES:
            raise NotConnected(host)
        self._last_query += 1
        number = f"q{self._last_query}"
        waiting = self._waiting[number] = _Waiting(host)
        session.queries.append({"type": "query", "id": number, **question})
        session.bell.ring()
        try:
            with trio.fail_after(timeout):
                await waiting.answered.wait()
        finally:
            del self._waiting[number]
        return waiting.answer

    def answer(self, number: str, host: str, answer: Any) -> bool:
        """Hand over a host's answer; False if nobody waits for it from this host."""
        waiting = self._waiting.get(number)
        if waiting is None or waiting.host != host:
            return False
        waiting.answer = answer
        waiting.answered.set()
        return True
