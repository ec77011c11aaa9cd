"""Who runs which revision, and waiting until everybody does.

A host acknowledges a revision by its report; it is live there when the report
says accepted at that revision or a later one.  A refusal names the revision that
was refused; one of an earlier revision is the past, not an answer to this one.  A
host that is not connected goes on with what it has and cannot be waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.state import State
from meshctl.view import Host, parse

POLL = 0.2
"""Seconds between two looks at the status; a rollout takes about as long."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Connected hosts by how far they are.

    ``behind`` is (host, its revision, what hinders it or ""), ``refused`` (host, reason).
    """

    live: tuple[str, ...] = ()
    behind: tuple[tuple[str, int, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    away: tuple[str, ...] = ()


def rollout(hosts: Sequence[Host], revision: int) -> Rollout:
    """Judge the hosts of a status against a revision."""
    live, behind, refused, away = [], [], [], []
    for host in hosts:
        if not host.connected:
            away.append(host.name)
        elif host.revision < revision:
            behind.append((host.name, host.revision, host.reason))
        elif not host.accepted:
            refused.append((host.name, host.reason or "no reason given"))
        else:
            live.append(host.name)
    return Rollout(tuple(live), tuple(behind), tuple(refused), tuple(away))


def _refused(refused: Sequence[tuple[str, str]], revision: int) -> Failure:
    return Failure(
        Exit.NOT_LIVE,
        f"revision {revision} was refused by {', '.join(name for name, _ in refused)}, "
        "which go on with what they ran before",
        "mend the resource and apply again, or go back: see `meshctl history`",
        [f"{name}: {reason}" for name, reason in refused],
    )


def _late(now: Rollout, revision: int, timeout: float) -> Failure:
    return Failure(
        Exit.NOT_LIVE,
        f"revision {revision} is applied, but after {timeout:g} s "
        f"{len(now.behind)} of {len(now.behind) + len(now.live)} hosts have not acknowledged it",
        "`meshctl check` says what is wrong with a host; its own log is `journalctl -u meshd`",
        [f"{name}: at revision {at}{why and ': '}{why}" for name, at, why in now.behind],
    )


def wait_until_live(state: State, revision: int, timeout: float) -> int:
    """Return how many connected hosts run ``revision``, once all do.  Raises Failure."""
    deadline = state.now() + timeout
    while True:
        now = rollout(parse(state.api.get("/v1/status")).hosts, revision)
        if now.refused:
            raise _refused(now.refused, revision)
        if not now.behind:
            return len(now.live)
        if state.now() >= deadline:
            raise _late(now, revision, timeout)
        state.sleep(POLL)
