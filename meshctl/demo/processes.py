"""The demo's child processes: started bound to our life, ended all together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import trio

from meshctl.errors import Failure
from meshctl.exits import Exit

GRACE = 2.0
"""Seconds between asking all to end and killing them."""
TAIL = 12
"""Lines of a log that a failure shows."""


def tail(log: Path, lines: int = TAIL) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return []


class Processes:
    """A context manager: on leaving it, no process that it started is left."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def start(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start ``command`` in a process group of its own; output goes to ``log``.

        From the main thread only: the kernel's "parent died" is about the thread.
        """
        launcher = str(Path(__file__).with_name("launch.py"))
        whole = [sys.executable, "-I", "-S", launcher, str(os.getpid()), *command]
        with log.open("wb") as out:
            child = subprocess.Popen(
                whole,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                process_group=0,
            )
        self._running[name] = (child, log)

    def check(self) -> None:
        """Raise Failure, with the end of its log, when a child has ended by itself."""
        for name, (child, log) in self._running.items():
            status = child.poll()
            if status is not None:
                raise Failure(
                    Exit.CHECK_FAILED,
                    f"{name} ended with status {status}",
                    f"its whole log: {log}",
                    [f"{name}: {line}" for line in tail(log)],
                )

    def end(self) -> None:
        """SIGTERM to all, and SIGKILL to every group that is not gone in `GRACE` s."""
        children = [child for child, _ in self._running.values()]
        for child in children:
            _signal(child, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            _wait(children, GRACE)
        for child in children:
            _signal(child, signal.SIGKILL)
            child.wait()
        self._running.clear()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _wait(children: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait for all, at most ``seconds`` altogether."""
    import time

    deadline = time.monotonic() + seconds
    for child in children:
        child.wait(max(0.0, deadline - time.monotonic()))


async def run(command: Sequence[str], log: Path) -> None:
    """Run ``command`` to its end; Failure with its output when it fails."""
    result = await trio.run_process(
        list(command), capture_stdout=True, stderr=subprocess.STDOUT, check=False
    )
    log.write_bytes(result.stdout)
    if result.returncode:
        raise Failure(
            Exit.CHECK_FAILED,
            f"{Path(command[0]).name} {' '.join(command[1:3])} ended with {result.returncode}",
            f"its whole log: {log}",
            tail(log),
        )
