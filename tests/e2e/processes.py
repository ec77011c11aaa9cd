"""Processes as /proc shows them: who descends from whom, and who is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """``started`` (clock ticks since boot) tells it from a later one with its pid."""

    pid: int
    parent: int
    started: int
    command: str


def read(pid: int) -> Process | None:
    """A live process; None for one that has ended, zombies included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[19]), command)


def every() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := read(int(entry.name))) is not None:
            yield process


def alive(process: Process) -> bool:
    now = read(process.pid)
    return now is not None and now.started == process.started


def descendants(pid: int) -> set[Process]:
    """Children of ``pid``, their children, and so on."""
    children: dict[int, list[Process]] = {}
    for process in every():
        children.setdefault(process.parent, []).append(process)
    found: set[Process] = set()
    pending = [pid]
    while pending:
        for process in children.get(pending.pop(), ()):
            found.add(process)
            pending.append(process.pid)
    return found


def mentioning(text: str) -> list[Process]:
    """Processes whose command line holds ``text``, except our own."""
    return [p for p in every() if text in p.command and p.pid != os.getpid()]


def kill(process: Process) -> None:
    if alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
