"""A worker's connection from hello to its end: read, send what it lacks, ask how it is.

Three tasks on one channel.  The reader never sends more than a worker asked
for; the writer sends what the ledger plans whenever something changed; the
pinger notices a worker that lives but does not answer.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

import trio

from meshd.agent.channel import Channel, perform
from meshd.agent.ledger import Ledger, Wanted
from meshd.agent.log import Log
from meshd.agent.signals import Signal
from meshd.agent.sockets import Sockets
from meshkit.snapshot import messages
from meshkit.snapshot.messages import Frame, FrameError

HELLO_WITHIN = 5.0
PING_EVERY = 2.0
HUNG_AFTER = 30.0
"""No pong for so long: the loop stands still, and so does its traffic.  Replaced."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a worker said first, with the descriptors it brought."""

    index: int
    pid: int
    version: str
    revision: str
    listeners: tuple[str, ...]
    descriptors: tuple[int, ...]


async def read_hello(channel: Channel, frames: AsyncIterator[Frame]) -> Hello:
    """The first frame; FrameError where it is something else or does not come."""
    with trio.move_on_after(HELLO_WITHIN):
        async for frame in frames:
            if frame.type != "hello" or frame.header["protocol"] != messages.PROTOCOL:
                raise FrameError(f"expected hello of protocol {messages.PROTOCOL}")
            return _hello(channel, frame)
    raise FrameError(f"no hello within {HELLO_WITHIN:g} s")


def _hello(channel: Channel, frame: Frame) -> Hello:
    head = frame.header
    descriptors = tuple(channel.take(frame))
    if len(descriptors) != len(head["listeners"]):
        for descriptor in descriptors:
            os.close(descriptor)
        raise FrameError("hello: as many descriptors as listeners expected")
    return Hello(
        *(head["index"], head["pid"], head["version"], head["revision"]),
        *(tuple(head["listeners"]), descriptors),
    )


@dataclass(slots=True)
class Load:
    """The last pong: when (trio's clock), and how much the worker carries."""

    at: float
    connections: int = 0
    fibers: int = 0


@dataclass
class Session:
    """One admitted worker.  The callbacks go to the pool, which owns all decisions."""

    hello: Hello
    pid: int
    channel: Channel
    ledger: Ledger
    wanted: Wanted
    sockets: Sockets
    loans: Callable[[int], Iterable[tuple[str, int]]]
    on_ack: Callable[[int], None]
    on_change: Callable[[], None]
    on_hung: Callable[[int], None]
    log: Log
    changed: Signal = field(default_factory=Signal)
    load: Load = field(default_factory=lambda: Load(trio.current_time()))
    drained: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _ids: itertools.count[int] = field(default_factory=itertools.count)
    _pongs: dict[int, trio.Event] = field(default_factory=dict)

    @property
    def index(self) -> int:
        return self.hello.index

    async def run(self, frames: AsyncIterator[Frame]) -> None:
        """Until the worker closes, or an error, which is raised."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._ping)
                async for frame in frames:
                    await self._handle(frame)
                nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        while True:
            steps = self.ledger.plan(self.wanted, self.sockets.offered(), self.loans(self.index))
            steps += self.ledger.plan_closing(self.wanted, self.sockets.surplus())
            for step in steps:
                await perform(self.channel, step, self.sockets)
            if steps:
                self.on_change()
            await self.changed.wait()

    async def _handle(self, frame: Frame) -> None:
        head = frame.header
        match frame.type:
            case "need":
                await self._send_blobs(head["revision"], head["hashes"])
            case "ack":
                self.ledger.ack(head["revision"])
                self.on_ack(self.index)
                self.changed.set()
                self.on_change()
            case "refuse":
                self._refused(head["revision"], head["reason"])
            case "pong":
                self.load = Load(trio.current_time(), head["connections"], head["fibers"])
                self._pongs.pop(head["id"], trio.Event()).set()
            case "drained":
                self.drained.set()
            case "log":
                fields = {k: v for k, v in head.items() if k not in ("type", "level", "event")}
                self.log.write(head["level"], head["event"], **{**fields, "worker": self.index})
            case other:
                self.log.warning("unknown_message", worker=self.index, type=other)

    def _refused(self, revision: str, reason: str) -> None:
        self.ledger.refuse(revision, reason)
        self.log.error("snapshot_refused", worker=self.index, revision=revision, reason=reason)
        self.on_change()

    async def _send_blobs(self, revision: str, hashes: Iterable[str]) -> None:
        """From the snapshot that was sent last.

        A newer map may have crossed the worker's question about the one before.
        What that one alone had is not wanted any more: the worker asks again.
        """
        sent = self.ledger.sent
        held = sent.blobs if sent else {}
        for ident in hashes:
            if ident in held:
                await self.channel.send(messages.blob(ident, held[ident]))
            elif sent is None or revision == sent.revision:
                raise FrameError(f"need: {ident} is not of the revision that was sent")

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_EVERY)
            await self.channel.send(messages.ping(next(self._ids)))
            if trio.current_time() - self.load.at > HUNG_AFTER:
                self.on_hung(self.index)

    async def ping(self) -> None:
        """Return when the worker has answered; the caller sets the limit."""
        ident, answered = next(self._ids), trio.Event()
        self._pongs[ident] = answered
        try:
            await self.channel.send(messages.ping(ident))
            await answered.wait()
        finally:
            self._pongs.pop(ident, None)
