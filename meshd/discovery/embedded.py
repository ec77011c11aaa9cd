"""Discovery through the policy server's registry: the default where there is no Consul.

This host's instances are put whole, under a lease that is renewed at a third;
the server streams everybody's.  An instance that leaves is first put with
weight 0, unhealthy, for a moment: others then know that it drained and was not
lost with its host (docs/discovery.md).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol

import trio

from meshd.discovery.base import Instance, View
from meshd.discovery.board import Board, Clock
from meshd.discovery.catalog import Catalog
from meshd.discovery.faults import Faults
from meshd.discovery.local import HostAddress, local_instances, report_key
from meshd.discovery.timing import Backoff
from meshd.discovery.view import Answer, HoldRules, Key, key_of
from meshkit.model.resources import LocalService
from meshkit.names import ServiceName

LEASE = 15.0  # seconds after which a host that died is taken out
DRAIN = 2.0  # longer than a stream takes to bring the mark of leaving
SILENCE = 45.0  # three of the pings that the server sends when nothing changes
REGISTRY = "/v1/registry"
STREAM = "/v1/registry/stream"


class Policy(Protocol):
    """What of `ca.client.PolicyClient` is used here."""

    async def put(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def stream(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]: ...


class MalformedMessage(ValueError):
    """The server's message does not have the documented shape."""


def to_wire(instance: Instance, *, healthy: bool) -> dict[str, Any]:
    return {
        "service": instance.service.name,
        "namespace": instance.service.namespace,
        "instance": instance.instance,
        "port": instance.port,
        "portName": instance.port_name,
        "address": instance.address,
        "meshPort": instance.mesh_port,
        "protocol": instance.protocol,
        "labels": dict(instance.labels),
        "weight": instance.weight,
        "healthy": healthy,
    }


def from_wire(service: ServiceName, row: Mapping[str, Any]) -> Instance:
    return Instance(
        service=service,
        instance=row["instance"],
        host=row["host"],
        address=row["address"],
        port=row["port"],
        protocol=row["protocol"],
        mesh_port=row["meshPort"],
        port_name=row["portName"],
        labels=row["labels"],
        weight=row["weight"],
    )


def read_services(message: Mapping[str, Any]) -> dict[ServiceName, Answer]:
    """The answers of an ``instances`` message.

    Raises:
        MalformedMessage: a field is missing or of another kind.
    """
    try:
        return {
            ServiceName(*name.split("/")): _answer(ServiceName(*name.split("/")), rows)
            for name, rows in message["services"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise MalformedMessage(f"the registry's message cannot be read: {error!r}") from error


def _answer(service: ServiceName, rows: Iterable[Mapping[str, Any]]) -> Answer:
    healthy: list[Instance] = []
    failing: set[Key] = set()
    left: set[Key] = set()
    for row in rows:
        instance = from_wire(service, row)
        if row["healthy"]:
            healthy.append(instance)
        else:
            (failing if instance.weight else left).add(key_of(instance))
    return Answer(tuple(healthy), frozenset(failing), frozenset(left))


class EmbeddedDiscovery:
    """`meshd.discovery.base.Discovery` over the policy server.

    Args:
        policy: a client that is (or will be) connected as this host.
        faults: what the client's calls raise when the server is away or refuses.
        lease: seconds; ``drain``: seconds between the mark of leaving and leaving.
    """

    def __init__(
        self,
        policy: Policy,
        host: HostAddress,
        faults: tuple[type[Exception], ...],
        *,
        rules: HoldRules | None = None,
        clock: Clock = time.monotonic,
        lease: float = LEASE,
        drain: float = DRAIN,
    ) -> None:
        self._policy, self._host, self._lease, self._drain = policy, host, lease, drain
        self._expected: tuple[type[Exception], ...] = (
            *faults,
            trio.TooSlowError,
            MalformedMessage,
        )
        self._board = Board(rules, clock)
        self._clock = clock
        self._catalog = Catalog(self._board)
        self._faults = Faults(self._board, "the registry", waiting_for="stream")
        self._wish: dict[Key, Instance] | None = None
        self._leaving: dict[Key, Instance] = {}
        self._marked: dict[Key, float] = {}
        """Of those leaving, whom the server knows to leave, and until when to say so."""
        self._ill: set[str] = set()
        self._woken = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._board.run_holds)

    # -- this host's instances ------------------------------------------------

    async def register(self, services: Sequence[LocalService]) -> None:
        wish = {_local_key(each): each for each in local_instances(services, self._host)}
        self._leaving |= self._wish or {}
        self._leaving = {key: each for key, each in self._leaving.items() if key not in wish}
        self._wish = wish
        self._woken.set()
        await trio.lowlevel.checkpoint()

    def report_health(self, instance: str, healthy: bool) -> None:
        if healthy == (instance in self._ill):
            self._ill ^= {instance}
            self._woken.set()

    def _rows(self) -> list[dict[str, Any]]:
        staying = [
            to_wire(each, healthy=report_key(each) not in self._ill)
            for each in (self._wish or {}).values()
        ]
        leaving = [to_wire(replace(e, weight=0), healthy=False) for e in self._leaving.values()]
        return staying + leaving

    def _note_put(self, leaving: Collection[Key]) -> None:
        """``leaving`` were put with their mark: they go when it has been there for a while."""
        now = self._clock()
        marks = {key: self._marked.get(key, now + self._drain) for key in leaving}
        self._marked = {key: due for key, due in marks.items() if key in self._leaving}

    def _drop_drained(self) -> None:
        now = self._clock()
        for key in [key for key, due in self._marked.items() if due <= now]:
            del self._marked[key]
            self._leaving.pop(key, None)

    async def _renew(self) -> None:
        """Put the set at a third of the lease, and at once when it changes.

        Not before the first wish: the lease of an earlier meshd goes on meanwhile.
        """
        backoff = Backoff(longest=self._lease / 3)
        while True:
            self._woken = trio.Event()
            if self._wish is None:
                await self._woken.wait()
                continue
            self._drop_drained()
            leaving, body = tuple(self._leaving), {"lease": self._lease, "instances": self._rows()}
            try:
                with trio.fail_after(self._lease):
                    await self._policy.put(REGISTRY, body)
            except self._expected as fault:
                self._faults.failed("registration", fault)
                await trio.sleep(backoff.next())
            else:
                backoff.reset()
                self._note_put(leaving)
                self._faults.mended("registration")
                await self._pause()

    async def _pause(self) -> None:
        dues = [due - self._clock() for due in self._marked.values()]
        with trio.move_on_after(max(0.0, min([self._lease / 3, *dues]))):
            await self._woken.wait()

    # -- everybody's ----------------------------------------------------------

    def watch(self, services: Collection[ServiceName] | None) -> None:
        self._catalog.want(services)

    async def _follow(self) -> None:
        backoff = Backoff()
        while True:
            try:
                async with self._policy.stream(STREAM) as messages:
                    await self._read(messages, backoff)
                fault: Exception = EOFError("the server ended the stream")
            except self._expected as error:
                fault = error
            self._lost(fault)
            await trio.sleep(backoff.next())

    async def _read(self, messages: AsyncIterator[dict[str, Any]], backoff: Backoff) -> None:
        """The first set is whole, the later ones are of changed services."""
        whole = True
        while True:
            with trio.fail_after(SILENCE):
                message = await anext(messages, None)
            if message is None:
                return
            if message.get("type") != "instances":
                continue
            said = read_services(message)
            if whole:
                self._catalog.replace(said)
            else:
                self._catalog.update(said)
            whole = False
            backoff.reset()
            self._faults.mended("stream")

    def _lost(self, fault: Exception) -> None:
        reason = f"the registry does not answer: {fault}"
        self._board.keeper.failed_all(reason, self._clock())
        self._faults.failed("stream", fault)

    def view(self) -> View:
        return self._board.view

    async def changed(self) -> None:
        await self._board.changed()


def _local_key(instance: Instance) -> Key:
    """Unlike `key_of`, unique among all services of one host."""
    return str(instance.service), instance.instance, instance.port
