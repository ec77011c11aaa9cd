"""What one worker was told, and what it must be told next.

The agent does not replay events to a worker; it compares.  `Wanted` is the
state that every worker should have, a `Ledger` what this one was sent, and
`plan` the messages that lead from the one to the other, in the order of the
contract: roots, keys, access log, listeners, map.  A worker that was away, or
was adopted, or refused a revision needs no special case.

- A map's difference is against the last map *sent*, which the worker builds on;
  after a refusal nothing is known for certain, so the next map is a full one.
- The same revision is never sent twice: a refused one waits for the next.
- A listener is closed only after the worker runs a revision without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshkit.snapshot.types import Snapshot


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM of chain (leaf first) and key; equal content is not sent again."""

    chain: bytes
    key: bytes = field(repr=False)


@dataclass(slots=True)
class Wanted:
    """For all workers.  ``access_log`` is a descriptor, None = off; reopening bumps the number."""

    roots: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, KeyPair] = field(default_factory=dict)
    access_log: int | None = None
    access_log_opened: int = 0
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class SendRoots:
    domains: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SendKeys:
    name: str
    pair: KeyPair


@dataclass(frozen=True, slots=True)
class SendAccessLog:
    descriptor: int | None


@dataclass(frozen=True, slots=True)
class SendListener:
    """The socket of worker ``owner``; another's is lent."""

    id: str
    owner: int
    lent: bool


@dataclass(frozen=True, slots=True)
class SendClose:
    id: str
    lent: bool


@dataclass(frozen=True, slots=True)
class SendMap:
    """Difference from ``before`` (None: a full map) to ``after``."""

    before: Snapshot | None
    after: Snapshot


Step = SendRoots | SendKeys | SendAccessLog | SendListener | SendClose | SendMap


@dataclass(slots=True)
class Ledger:
    """One connection's account.  ``own`` starts with the listeners of the hello."""

    index: int
    own: dict[str, int] = field(default_factory=dict)
    """Listeners it holds, with the move of each (`Sockets.offered`)."""
    loans: set[tuple[str, int]] = field(default_factory=set)
    """(listener id, owner) of sockets lent to this worker."""
    stale_loans: set[str] = field(default_factory=set)
    """Ids of loans from an earlier agent, to be closed first."""
    live: str = ""
    """The revision that the worker runs, by its hello or last ack."""
    sent: Snapshot | None = None
    refused: dict[str, str] = field(default_factory=dict)
    _base: Snapshot | None = None
    _roots: Mapping[str, str] | None = None
    _keys: dict[str, KeyPair] = field(default_factory=dict)
    _log_opened: int = -1

    def ack(self, revision: str) -> None:
        self.live = revision
        self.refused.clear()

    def refuse(self, revision: str, reason: str) -> None:
        self.refused = {revision: reason}
        self._base = None

    def current(self, wanted: Wanted) -> bool:
        """Whether the worker runs what it should."""
        return wanted.snapshot is not None and self.live == wanted.snapshot.revision

    def plan(
        self, wanted: Wanted, listeners: Mapping[str, int], loans: Iterable[tuple[str, int]]
    ) -> list[Step]:
        """The next messages; ``listeners`` are the open ones, ``loans`` what it should hold.

        Taken as sent: a connection that fails ends the ledger with it.
        """
        steps: list[Step] = []
        steps += self._plan_secrets(wanted)
        steps += self._plan_log(wanted)
        steps += self._plan_listeners(listeners)
        steps += self._plan_loans(set(loans))
        steps += self._plan_map(wanted.snapshot)
        return steps

    def plan_closing(self, wanted: Wanted, surplus: Iterable[str]) -> list[Step]:
        """Listeners that are no longer wanted, once the worker knows that."""
        if not self.current(wanted):
            return []
        gone = sorted(set(self.own) & set(surplus))
        for listener in gone:
            del self.own[listener]
        return [SendClose(listener, False) for listener in gone]

    def _plan_secrets(self, wanted: Wanted) -> list[Step]:
        steps: list[Step] = []
        if wanted.roots and self._roots != wanted.roots:
            self._roots = dict(wanted.roots)
            steps.append(SendRoots(self._roots))
        for name, pair in wanted.keys.items():
            if self._keys.get(name) != pair:
                self._keys[name] = pair
                steps.append(SendKeys(name, pair))
        return steps

    def _plan_log(self, wanted: Wanted) -> list[Step]:
        if self._log_opened == wanted.access_log_opened:
            return []
        self._log_opened = wanted.access_log_opened
        return [SendAccessLog(wanted.access_log)]

    def _plan_listeners(self, listeners: Mapping[str, int]) -> list[Step]:
        missing = sorted(i for i, move in listeners.items() if self.own.get(i) != move)
        self.own |= listeners
        return [SendListener(listener, self.index, False) for listener in missing]

    def _plan_loans(self, loans: set[tuple[str, int]]) -> list[Step]:
        """``close`` names no owner: it ends all loans of an id, so the rest is lent again."""
        ended = {listener for listener, _ in self.loans - loans} | self.stale_loans
        self.stale_loans = set()
        kept = {loan for loan in self.loans if loan[0] not in ended}
        steps: list[Step] = [SendClose(listener, True) for listener in sorted(ended)]
        steps += [SendListener(listener, owner, True) for listener, owner in sorted(loans - kept)]
        self.loans = loans
        return steps

    def _plan_map(self, snapshot: Snapshot | None) -> list[Step]:
        if snapshot is None or (self.sent and self.sent.revision == snapshot.revision):
            return []
        step = SendMap(self._base, snapshot)
        self.sent = self._base = snapshot
        return [step]
