"""Watches of the catalog: blocking queries, and polling for what exceeds the connections.

A blocking query repeats the index of the last answer and returns when there is
a later one (Consul's documentation, "Blocking queries").  Its rules, and why:

* no index (a plain read) at first, after a fault, and when the index went
  backwards: a restarted or another server counts from anew, and waiting for an
  index that it reaches in an hour loses every change until then;
* an index is at least 1, or the next query would not block;
* after an answer that came at once, `PACE` seconds pass: a busy catalog costs a
  read each `PACE`, not a core.  Nothing is lost, an answer is a whole state;
* the question after such a pause waits `DOUBT` seconds at most: an agent that is
  restarted in the pause breaks no query, and the new one would hold this one, for
  an index that it has not got, to the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from consul.exceptions import ACLPermissionDenied

from meshd.discovery.board import Board
from meshd.discovery.consul_http import FAULTS, WAIT, ConsulClient
from meshd.discovery.consul_records import MalformedAnswer, read_health, read_services
from meshd.discovery.faults import Faults
from meshd.discovery.timing import Backoff, fault_text
from meshd.discovery.view import Answer
from meshkit.names import ServiceName

PACE = 0.2
DOUBT = 5.0  # as long as `consul_register` takes to see that the agent was exchanged
BLOCKING = 140  # of `consul_http.CONNECTIONS`; the rest registers, lists and polls
POLL_ROUND = 5.0  # seconds in which every polled service is asked once
CATALOG = "/v1/catalog/services"  # beside service names, which have no slashes

Ask = Callable[[int, float], Awaitable[tuple[Any, Any]]]
"""index (0 = do not block), seconds to block → (index as Consul wrote it, answer)."""


def next_index(previous: int, answered: Any) -> int:
    """The index to wait beyond; 0 = ask again without waiting.

    Raises:
        MalformedAnswer: the header is not a number.
    """
    text = str(answered)
    if not (text.isascii() and text.isdigit()):
        raise MalformedAnswer(f"X-Consul-Index is {text[:40]!r}, not a number")
    index = int(text)
    return 0 if index < previous else max(1, index)


async def follow(
    ask: Ask, take: Callable[[Any], None], fail: Callable[[Exception], None], backoff: Backoff
) -> None:
    """Ask for ever, by the rules above.  ``take`` may raise MalformedAnswer."""
    index, wait = 0, WAIT
    while True:
        started = trio.current_time()
        try:
            answered, answer = await ask(index, wait)
            following = next_index(index, answered)
            take(answer)
        except FAULTS as fault:
            index = 0
            fail(fault)
            await trio.sleep(backoff.next())
        else:
            index = following
            backoff.reset()
            wait = DOUBT if trio.current_time() < started + PACE else WAIT
            await trio.sleep_until(started + PACE)


class Watcher:
    """Keeps the board's keeper up to date with the services that are wanted.

    ``recovered`` is called when a source that failed answers again: the agent
    may have been restarted.
    """

    def __init__(
        self,
        client: ConsulClient,
        board: Board,
        faults: Faults,
        recovered: Callable[[], None],
        blocking: int = BLOCKING,
    ) -> None:
        self._client, self._board, self._faults = client, board, faults
        self._recovered, self._blocking = recovered, blocking
        self._wanted: frozenset[ServiceName] | None = frozenset()
        self._listed: frozenset[str] = frozenset()
        self._scopes: dict[str, trio.CancelScope] = {}
        self._polled: tuple[str, ...] = ()
        self._unheard: set[str] | None = None
        """Names of the first listing that nothing is known of yet; None before it."""
        self._woken = trio.Event()
        faults.wait()

    def want(self, services: frozenset[ServiceName] | None) -> None:
        """Which services to watch; None = all that Consul lists."""
        self._wanted = services
        if services is not None and self._board.keeper.forget_others(services):
            self._board.publish()
        self._woken.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            while True:
                self._woken = trio.Event()
                self._arrange(nursery)
                await self._woken.wait()

    def names(self) -> frozenset[str]:
        """Consul names to ask about; what is held is asked about until it is let go."""
        if self._wanted is not None:
            return frozenset(service.name for service in self._wanted)
        return self._listed | {service.name for service in self._board.keeper.known()}

    def _arrange(self, nursery: trio.Nursery) -> None:
        names = self.names()
        for name in self._scopes.keys() - names - {CATALOG}:
            self._drop(name)
        self._start(nursery, CATALOG) if self._wanted is None else self._drop(CATALOG)
        waiting = sorted(names - self._scopes.keys())
        free = self._blocking - len(self._scopes)
        for name in waiting[:free]:
            self._start(nursery, name)
        for name in set(self._polled) - names:
            self._faults.forget(name)
        self._polled = tuple(waiting[free:])

    def _start(self, nursery: trio.Nursery, name: str) -> None:
        if name not in self._scopes:
            self._scopes[name] = trio.CancelScope()
            nursery.start_soon(self._follow, name, self._scopes[name])

    def _drop(self, name: str) -> None:
        scope = self._scopes.pop(name, None)
        if scope is not None:
            scope.cancel()
            self._faults.forget(name)

    async def _follow(self, name: str, scope: trio.CancelScope) -> None:
        ask = self._ask_catalog if name == CATALOG else partial(self._ask, name)
        with scope:
            await follow(
                ask,
                lambda answer: self._take(name, answer),
                lambda fault: self._fail(name, fault),
                Backoff(),
            )

    def _ask_catalog(self, index: int, wait: float) -> Awaitable[tuple[Any, Any]]:
        asked: Awaitable[tuple[Any, Any]] = self._client.catalog.services(
            index=index or None, wait=f"{wait:.0f}s"
        )
        return asked

    def _ask(self, name: str, index: int, wait: float) -> Awaitable[tuple[Any, Any]]:
        asked: Awaitable[tuple[Any, Any]] = self._client.health.service(
            name, index=index or None, wait=f"{wait:.0f}s"
        )
        return asked

    def _take(self, name: str, answer: Any) -> None:
        if name == CATALOG:
            self._listed = read_services(answer)
            if self._unheard is None:
                self._unheard = set(self.names())
            self._woken.set()
        elif self._keep(name, read_health(answer)):
            self._board.publish()
            self._woken.set()
        if name in self._faults:
            self._recovered()
        self._faults.mended(name)
        self._note_heard(name)

    def _note_heard(self, name: str) -> None:
        """``name`` was answered or failed: when all have, the first picture is whole."""
        if self._unheard is None and self._wanted is not None:
            self._unheard = set(self.names())
        if self._unheard is not None:
            self._unheard &= self.names() - {name}
            if not self._unheard:
                self._faults.settled()

    def _keep(self, name: str, by_service: dict[ServiceName, Answer]) -> bool:
        """One answer is about every namespace that has the name, those now absent too."""
        keeper, now = self._board.keeper, self._board.clock()
        known = {service for service in keeper.known() if service.name == name}
        concerned = known | by_service.keys()
        if self._wanted is not None:
            concerned &= self._wanted
        changes = [keeper.answer(s, by_service.get(s, Answer()), now) for s in sorted(concerned)]
        return any(changes)

    def _fail(self, name: str, fault: Exception) -> None:
        if isinstance(fault, ACLPermissionDenied):
            self._client.reload_token()
        keeper, now = self._board.keeper, self._board.clock()
        reason = f"Consul does not answer: {fault_text(fault)}"
        for service in keeper.known():
            if service.name == name:
                keeper.failed(service, reason, now)
        self._faults.failed(name, fault)
        self._note_heard(name)

    async def _poll(self) -> None:
        """Ask about each polled service once a round, one after the other."""
        backoff = Backoff()
        while True:
            started = trio.current_time()
            for name in self._polled:
                try:
                    _, answer = await self._ask(name, 0, WAIT)
                    self._take(name, answer)
                except FAULTS as fault:
                    self._fail(name, fault)
                    await trio.sleep(backoff.next())
                else:
                    backoff.reset()
            await trio.sleep_until(started + (POLL_ROUND if self._polled else PACE))
