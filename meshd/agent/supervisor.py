"""Which worker to start, adopt, turn away, kill; whose sockets are lent to whom.

The rules, and nothing else: no process, socket or clock is touched here.

- A worker has an index, 0 to N-1, and at most one process holds an index.
  There is never a second set: who says hello for an index that a live process
  holds is turned away.
- Agent and workers do not own each other's life.  A worker whose connection is
  lost is SILENT, not dead: it goes on serving and comes back by itself.  A new
  agent finds running workers (EXPECTED) and waits for their hello.
- Each index has sockets of its own, which the agent keeps for life.  Nobody
  accepts from the sockets of an index without a live, ready worker, so they are
  lent to the ready worker that has fewest loans, and taken back when the owner
  is ready again.  Nothing queued on them is lost.
- A process that lived less than CRASH_AGE crashed.  The first crash restarts at
  once (one bad request must not cost a worker), repeated ones with doubling
  delay (a crash loop must not cost the host).

Events come in as method calls with ``now`` (monotonic seconds) and return the
actions to take, in order.  What the table does not hold is a programming error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CRASH_AGE = 10.0
CRASH_BASE = 0.5
CRASH_CAP = 30.0
HELLO_TIMEOUT = 10.0
"""A process that says no hello for so long is not serving under us: replaced."""
ADOPTION_GRACE = 1.0
"""Workers knock every 0.1 s: whoever runs has said hello before a second set could start."""


class Phase(StrEnum):
    MISSING = "missing"
    EXPECTED = "expected"
    STARTING = "starting"
    CONNECTED = "connected"
    READY = "ready"
    SILENT = "silent"


class Event(StrEnum):
    FOUND = "found"
    START = "start"
    HELLO = "hello"
    ACKED = "acked"
    LOST = "lost"
    EXITED = "exited"


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.MISSING, Event.FOUND): Phase.EXPECTED,
    (Phase.MISSING, Event.START): Phase.STARTING,
    # A worker of an earlier agent whose pid file was lost.
    (Phase.MISSING, Event.HELLO): Phase.CONNECTED,
    (Phase.EXPECTED, Event.HELLO): Phase.CONNECTED,
    (Phase.EXPECTED, Event.EXITED): Phase.MISSING,
    (Phase.STARTING, Event.HELLO): Phase.CONNECTED,
    (Phase.STARTING, Event.EXITED): Phase.MISSING,
    (Phase.CONNECTED, Event.ACKED): Phase.READY,
    (Phase.CONNECTED, Event.LOST): Phase.SILENT,
    (Phase.CONNECTED, Event.EXITED): Phase.MISSING,
    (Phase.READY, Event.ACKED): Phase.READY,
    (Phase.READY, Event.LOST): Phase.SILENT,
    (Phase.READY, Event.EXITED): Phase.MISSING,
    (Phase.SILENT, Event.HELLO): Phase.CONNECTED,
    (Phase.SILENT, Event.EXITED): Phase.MISSING,
}

AWAITING_HELLO = (Phase.EXPECTED, Phase.STARTING, Phase.SILENT)
ABSENT = (Phase.MISSING, Phase.STARTING)
"""Phases in which no process holds the sockets of the index."""


@dataclass(frozen=True, slots=True)
class Start:
    index: int


@dataclass(frozen=True, slots=True)
class Kill:
    index: int
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lend:
    """Give the sockets of ``index`` to worker ``to`` as well."""

    index: int
    to: int


@dataclass(frozen=True, slots=True)
class TakeBack:
    index: int
    borrower: int


Action = Start | Kill | Lend | TakeBack


class IllegalTransition(Exception):
    """The caller reported what cannot happen in this phase."""


@dataclass(slots=True)
class Slot:
    index: int
    phase: Phase = Phase.MISSING
    pid: int = 0
    since: float = 0.0
    """When the phase began."""
    born: float = 0.0
    start_at: float = 0.0
    crashes: int = 0
    """Quick ones, in a row."""
    restarts: int = 0
    lent_to: int | None = None
    killed: bool = False


class Supervisor:
    """``count`` workers; ``now`` is when this agent began."""

    def __init__(self, count: int, now: float):
        self.slots = [Slot(i, start_at=now + ADOPTION_GRACE) for i in range(count)]

    def found(self, index: int, pid: int, now: float) -> list[Action]:
        """A live process of an earlier agent holds this index."""
        slot = self.slots[index]
        self._move(slot, Event.FOUND, now)
        slot.pid, slot.born = pid, now - CRASH_AGE
        return []

    def start_at_once(self, now: float) -> None:
        """No trace of an earlier agent: nobody to wait for."""
        for slot in self.slots:
            slot.start_at = now

    def admits(self, index: int, pid: int) -> str:
        """Why a hello is turned away; "" = come in."""
        if not 0 <= index < len(self.slots):
            return f"this host runs {len(self.slots)} workers, there is no index {index}"
        slot = self.slots[index]
        if slot.phase in (Phase.CONNECTED, Phase.READY):
            return f"worker {index} is process {slot.pid}, which is connected"
        if slot.phase is not Phase.MISSING and slot.pid != pid:
            return f"worker {index} is process {slot.pid}"
        return ""

    def hello(self, index: int, pid: int, now: float) -> list[Action]:
        slot = self.slots[index]
        if slot.phase is Phase.MISSING:
            slot.born = now - CRASH_AGE
        self._move(slot, Event.HELLO, now)
        slot.pid = pid
        return []

    def acked(self, index: int, now: float) -> list[Action]:
        """The worker runs a snapshot, so it accepts from its sockets."""
        slot = self.slots[index]
        fresh = slot.phase is Phase.CONNECTED
        self._move(slot, Event.ACKED, now)
        if not fresh:
            return []
        actions: list[Action] = []
        if slot.lent_to is not None:
            actions.append(TakeBack(index, slot.lent_to))
            slot.lent_to = None
        return actions + self._lend()

    def lost(self, index: int, now: float) -> list[Action]:
        """The connection ended; the process may well live."""
        self._move(self.slots[index], Event.LOST, now)
        return []

    def started(self, index: int, pid: int, now: float) -> list[Action]:
        """The answer to `Start`: the new process, pid 0 if it could not be made."""
        slot = self.slots[index]
        self._move(slot, Event.START, now)
        slot.pid, slot.born, slot.killed = pid, now, False
        return self.exited(index, now) if not pid else []

    def exited(self, index: int, now: float) -> list[Action]:
        slot = self.slots[index]
        self._move(slot, Event.EXITED, now)
        slot.crashes = slot.crashes + 1 if now - slot.born < CRASH_AGE else 0
        slot.restarts += 1
        slot.pid = 0
        slot.start_at = now + crash_delay(slot.crashes)
        for other in self.slots:
            if other.lent_to == index:
                other.lent_to = None
        return self._lend()

    def tick(self, now: float) -> list[Action]:
        """Whatever is due."""
        actions: list[Action] = []
        for slot in self.slots:
            if slot.phase is Phase.MISSING and now >= slot.start_at:
                actions.append(Start(slot.index))
            elif self._mute(slot, now):
                slot.killed = True
                actions.append(Kill(slot.index, slot.pid, "no_hello"))
        return actions

    def next_tick(self) -> float | None:
        """When `tick` has something to do; None = only after another event."""
        times = [s.start_at for s in self.slots if s.phase is Phase.MISSING]
        times += [s.since + HELLO_TIMEOUT for s in self.slots if self._waits(s)]
        return min(times, default=None)

    def _waits(self, slot: Slot) -> bool:
        return slot.phase in AWAITING_HELLO and not slot.killed

    def _mute(self, slot: Slot, now: float) -> bool:
        return self._waits(slot) and now >= slot.since + HELLO_TIMEOUT

    def _move(self, slot: Slot, event: Event, now: float) -> None:
        after = TRANSITIONS.get((slot.phase, event))
        if after is None:
            raise IllegalTransition(f"worker {slot.index}: {event} while {slot.phase}")
        if after is not slot.phase:
            slot.phase, slot.since = after, now

    def _lend(self) -> list[Action]:
        """Loans for every index that nobody serves."""
        actions: list[Action] = []
        for slot in self.slots:
            borrower = self._borrower()
            if slot.phase in ABSENT and slot.lent_to is None and borrower is not None:
                slot.lent_to = borrower
                actions.append(Lend(slot.index, borrower))
        return actions

    def _borrower(self) -> int | None:
        ready = [s.index for s in self.slots if s.phase is Phase.READY]
        loans = [s.lent_to for s in self.slots]
        return min(ready, key=lambda index: (loans.count(index), index), default=None)


def crash_delay(crashes: int) -> float:
    """Seconds before the restart after this many quick crashes in a row."""
    return 0.0 if crashes <= 1 else float(min(CRASH_CAP, CRASH_BASE * 2.0 ** (crashes - 2)))
