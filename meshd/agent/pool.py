"""The workers of this host: the loop around `Supervisor`.

It starts processes, watches their ends by pidfd, accepts their connections on
``worker.sock`` and keeps the listening sockets.  What to do is decided by the
supervisor (who runs), the sockets (what is open) and each session's ledger
(what is sent); here it is only done.

After a restart nothing is opened until every worker that was found has said
hello: its sockets come with the hello, and a socket opened beside them would be
one on which nobody accepts.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from meshd.agent import processes
from meshd.agent.channel import Channel, peer_credentials
from meshd.agent.ledger import Ledger, Wanted
from meshd.agent.log import Log
from meshd.agent.processes import Command, Worker
from meshd.agent.session import Hello, Session, read_hello
from meshd.agent.signals import Signal
from meshd.agent.sockets import Sockets, Want
from meshd.agent.supervisor import ADOPTION_GRACE, Action, Kill, Phase, Start, Supervisor
from meshkit.snapshot import messages
from meshkit.snapshot.messages import Frame, FrameError
from meshkit.snapshot.types import Snapshot

REOPEN_EVERY = 5.0
"""Seconds between attempts at a listener whose address was taken."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """``owned``: workers die with this agent (a laptop), else they outlive it."""

    runtime: Path
    workers: int
    owned: bool = False
    uids: frozenset[int] = field(default_factory=lambda: frozenset({os.getuid()}))
    """Users whose processes may connect as workers."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    program: tuple[str, ...] = processes.PROGRAM


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One row of ``status``; ``revision`` is what it runs, "" nothing yet."""

    index: int
    phase: str
    pid: int
    revision: str
    version: str
    connections: int
    restarts: int
    refused: Mapping[str, str]


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The errors themselves, however deep their groups are nested."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


class Pool:
    """Call `run` once; the rest may be called any time after `__init__`."""

    def __init__(self, settings: PoolSettings, log: Log, on_change: Callable[[], None]):
        self._settings = settings
        self._command = Command(settings.runtime, settings.program)
        self._log = log
        self._on_change = on_change
        self._wants: Sequence[Want] = ()
        self._reopen_at: float | None = None
        self._wake = Signal()
        self._processes: dict[int, Worker] = {}
        self._sessions: dict[int, Session] = {}
        self.starts = 0
        self.exits = {"clean": 0, "error": 0, "signal": 0, "unknown": 0}
        self._closing = False
        self._ended = Signal()
        self.wanted = Wanted()
        self.sockets = Sockets(settings.workers)
        self.supervisor = Supervisor(settings.workers, trio.current_time())
        self._settle_at = trio.current_time()

    # -- what the agent tells us ----------------------------------------------

    def publish(self, snapshot: Snapshot, wants: Sequence[Want]) -> None:
        """A new revision with its listeners; workers get it as they can."""
        self.wanted.snapshot = snapshot
        self._wants = tuple(wants)
        self._open_sockets()
        self.touch()

    def touch(self) -> None:
        """Something in `wanted` has changed."""
        self._wake.set()
        for session in self._sessions.values():
            session.changed.set()

    def states(self) -> list[WorkerState]:
        return [self._state(slot.index) for slot in self.supervisor.slots]

    def _state(self, index: int) -> WorkerState:
        slot, session = self.supervisor.slots[index], self._sessions.get(index)
        known = (index, str(slot.phase), slot.pid)
        if session is None:
            return WorkerState(*known, "", "", 0, slot.restarts, {})
        return WorkerState(
            *known,
            session.ledger.live,
            session.hello.version,
            session.load.connections,
            slot.restarts,
            session.ledger.refused,
        )

    async def ping(self, seconds: float) -> list[int]:
        """Ask every worker; returns the indexes that did not answer in time."""
        silent = set(range(self._settings.workers))

        async def ask(session: Session) -> None:
            with trio.move_on_after(seconds):
                try:
                    await session.ping()
                except (OSError, trio.ClosedResourceError):
                    return
                silent.discard(session.index)

        async with trio.open_nursery() as nursery:
            for session in self._sessions.values():
                nursery.start_soon(ask, session)
        return sorted(silent)

    # -- running --------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled.  Workers live on, unless they are owned."""
        listener = await self._listen()
        try:
            async with trio.open_nursery() as nursery:
                self._find(nursery)
                task_status.started()
                nursery.start_soon(self._supervise, nursery)
                await self._accept(listener, nursery)
        finally:
            listener.close()
            self.sockets.close_all()

    async def _listen(self) -> trio.socket.SocketType:
        path = self._settings.runtime / "worker.sock"
        path.unlink(missing_ok=True)  # the runtime folder's lock says that nobody listens
        listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(64)
        return listener

    def _find(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        for slot in self.supervisor.slots:
            worker = processes.find(self._command, slot.index)
            if worker is not None:
                self._act(self.supervisor.found(slot.index, worker.pid, now), nursery)
                self._adopt_process(slot.index, worker, nursery)
        if self._processes:
            self._settle_at = now + ADOPTION_GRACE
        else:
            self.supervisor.start_at_once(now)

    def _adopt_process(self, index: int, worker: Worker, nursery: trio.Nursery) -> None:
        self._processes[index] = worker
        nursery.start_soon(self._watch, index, worker, nursery)

    async def _supervise(self, nursery: trio.Nursery) -> None:
        while True:
            now = trio.current_time()
            # Acting wakes this very task: only where there is something to act on.
            if not self._closing and (actions := self.supervisor.tick(now)):
                self._act(actions, nursery)
            if self._reopen_at is not None and now >= self._reopen_at:
                self._open_sockets()
            self._close_surplus()
            times = (self.supervisor.next_tick(), self._reopen_at, self._settling(now))
            await self._wake.wait_until(min((t for t in times if t is not None), default=None))

    def _settling(self, now: float) -> float | None:
        return self._settle_at if now < self._settle_at else None

    def _settled(self) -> bool:
        expected = any(slot.phase is Phase.EXPECTED for slot in self.supervisor.slots)
        return not expected and trio.current_time() >= self._settle_at

    def _act(self, actions: Iterable[Action], nursery: trio.Nursery) -> None:
        """Loans need no act of their own: sessions read them from the supervisor."""
        for action in actions:
            if isinstance(action, Start):
                self._start(action.index, nursery)
            elif isinstance(action, Kill):
                self._kill(action.index, action.reason)
            else:
                self._log.info("sockets_moved", **_fields(action))
        self.touch()

    def _start(self, index: int, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        settings = self._settings
        try:
            worker = processes.start(self._command, index, settings.environ, owned=settings.owned)
        except OSError as error:
            self._log.error("worker_not_started", worker=index, reason=str(error))
            self._act(self.supervisor.started(index, 0, now), nursery)
            return
        self.starts += 1
        self._log.info("worker_started", worker=index, pid=worker.pid)
        self._act(self.supervisor.started(index, worker.pid, now), nursery)
        self._adopt_process(index, worker, nursery)

    def _kill(self, index: int, reason: str) -> None:
        worker = self._processes.get(index)
        if worker is not None:
            self._log.error("worker_killed", worker=index, pid=worker.pid, reason=reason)
            worker.signal(signal.SIGKILL)

    async def _watch(self, index: int, worker: Worker, nursery: trio.Nursery) -> None:
        await trio.lowlevel.wait_readable(worker.pidfd)
        status = worker.reap()
        self.exits[_how(status)] += 1
        self._processes.pop(index, None)
        self._command.pid_file(index).unlink(missing_ok=True)
        session = self._sessions.pop(index, None)
        if session is not None:
            session.scope.cancel()
        actions = self.supervisor.exited(index, trio.current_time())
        slot = self.supervisor.slots[index]
        write = self._log.info if self._closing else self._log.error
        write("worker_exited", worker=index, pid=worker.pid, status=status, crashes=slot.crashes)
        self._act(actions, nursery)
        self._ended.set()
        self._on_change()

    # -- sockets --------------------------------------------------------------

    def _open_sockets(self) -> None:
        if not self._settled():
            self._reopen_at = trio.current_time() + 0.1
            return
        before = dict(self.sockets.faults)
        for listener in self.sockets.open(self._wants):
            self._log.info("listener_opened", listener=listener)
        faults = self.sockets.faults
        for listener, reason in faults.items():
            if before.get(listener) != reason:
                self._log.error("listener_not_opened", listener=listener, reason=reason)
        self._reopen_at = trio.current_time() + REOPEN_EVERY if faults else None
        self.touch()

    def _close_surplus(self) -> None:
        """Close what no worker accepts on any more."""
        used = {ident for s in self._sessions.values() for ident in s.ledger.own}
        for listener in self.sockets.surplus():
            if listener not in used:
                self.sockets.close(listener)
                self._log.info("listener_closed", listener=listener)

    def _loans(self, borrower: int) -> list[tuple[str, int]]:
        lent = [s.index for s in self.supervisor.slots if s.lent_to == borrower]
        return [(ident, index) for index in lent for ident in self.sockets.offered()]

    # -- connections ----------------------------------------------------------

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            sock, _ = await listener.accept()
            nursery.start_soon(self._serve, sock, nursery)

    async def _serve(self, sock: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        channel = Channel(sock)
        try:
            pid, uid = peer_credentials(sock)
            if uid not in self._settings.uids:
                self._log.warning("worker_turned_away", pid=pid, reason=f"user {uid}")
                return
            frames = channel.receive()
            hello = await read_hello(channel, frames)
            await self._admit(hello, pid, channel, frames, nursery)
        except* (OSError, FrameError, trio.ClosedResourceError) as group:
            # A session's tasks fail in groups; none of them may end the agent.
            reasons = "; ".join(str(error) for error in leaves(group))
            self._log.warning("worker_connection_ended", reason=reasons)
        finally:
            channel.close()

    async def _admit(
        self,
        hello: Hello,
        pid: int,
        channel: Channel,
        frames: AsyncIterator[Frame],
        nursery: trio.Nursery,
    ) -> None:
        refusal = self.supervisor.admits(hello.index, pid)
        unknown = self._unknown_process(hello.index, pid) if not refusal else None
        if refusal or isinstance(unknown, str):
            for descriptor in hello.descriptors:
                os.close(descriptor)
            self._log.warning("worker_turned_away", pid=pid, reason=refusal or unknown)
            await channel.send(messages.stop())
            return
        session = self._session(hello, pid, channel)
        self._sessions[hello.index] = session
        self._act(self.supervisor.hello(hello.index, pid, trio.current_time()), nursery)
        if unknown is not None:
            self._adopt_process(hello.index, unknown, nursery)
        self._log.info("worker_connected", worker=hello.index, pid=pid, revision=hello.revision)
        try:
            await session.run(frames)
        finally:
            self._lost(session)

    def _unknown_process(self, index: int, pid: int) -> Worker | str | None:
        """The process behind a hello that nobody announced, or why it cannot be watched."""
        if index in self._processes:
            return None
        try:
            return processes.record(self._command, index, Worker(pid))
        except OSError as error:
            return f"process {pid}: {error.strerror}"

    def _session(self, hello: Hello, pid: int, channel: Channel) -> Session:
        kept = self.sockets.adopt(hello.index, hello.listeners, hello.descriptors)
        ledger = Ledger(
            hello.index, own=kept, stale_loans=set(hello.listeners), live=hello.revision
        )
        return Session(
            hello, pid, channel, ledger, self.wanted, self.sockets,
            loans=self._loans,
            on_ack=self._acked,
            on_change=self._changed,
            on_hung=lambda index: self._kill(index, "no answer to ping"),
            log=self._log,
        )  # fmt: skip

    def _acked(self, index: int) -> None:
        for action in self.supervisor.acked(index, trio.current_time()):
            self._log.info("sockets_moved", **_fields(action))
        self.touch()

    def _changed(self) -> None:
        self._wake.set()
        self._on_change()

    def _lost(self, session: Session) -> None:
        """The connection is over; if the process is too, `_watch` was or will be told."""
        session.drained.set()
        if self._sessions.get(session.index) is session:
            del self._sessions[session.index]
            self.supervisor.lost(session.index, trio.current_time())
            self._wake.set()
            self._on_change()

    # -- the end, where workers are ours --------------------------------------

    async def drain(self, seconds: float) -> None:
        """Let workers finish within ``seconds``, then end them (`--own-workers`)."""
        self._closing = True
        with trio.move_on_after(seconds + 1):
            async with trio.open_nursery() as nursery:
                for session in list(self._sessions.values()):
                    nursery.start_soon(_dismiss, session, seconds)
            while self._processes:
                await self._ended.wait()
        for index in list(self._processes):
            self._kill(index, "not ended in time")


def _how(status: int | None) -> str:
    """How a process ended; of an adopted one nobody is told."""
    if status is None:
        return "unknown"
    return "clean" if status == 0 else "signal" if status < 0 else "error"


async def _dismiss(session: Session, seconds: float) -> None:
    try:
        await session.channel.send(messages.drain(seconds))
        with trio.move_on_after(seconds):
            await session.drained.wait()
        await session.channel.send(messages.stop())
    except (OSError, trio.ClosedResourceError):
        return


def _fields(action: object) -> dict[str, object]:
    return {"action": type(action).__name__.lower(), "detail": str(action)}
