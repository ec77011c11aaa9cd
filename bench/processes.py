"""Starting what is measured, pinned, and ending all of it whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_CPUS = sorted(os.sched_getaffinity(0))
LOAD_CPU, PROXY_CPU = _CPUS[0], _CPUS[-1]
"""Load generator and application on one processor, proxies on another."""

STOP_SECONDS = 5.0


class BenchError(Exception):
    """The benchmark cannot go on; the message says why and what to do."""


_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on just now, and that were not given out before."""
    ports: list[int] = []
    with contextlib.ExitStack() as open_ones:
        while len(ports) < count:
            sock = open_ones.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            if port not in _given:
                _given.add(port)
                ports.append(port)
    return ports


def until(condition: Callable[[], bool], what: str, log: Path, seconds: float = 60.0) -> None:
    """Wait for something to become true.  Raises BenchError with the end of `log`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise BenchError(f"not within {seconds:g} s: {what}\n{tail}")
        time.sleep(0.05)


def listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Processes:
    """Child processes that die with us."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        log: Path,
        cpu: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start it, its output appended to `log`; returns the pid."""
        libc = ctypes.CDLL(None)

        def child() -> None:
            libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})

        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                preexec_fn=child,
                env={**os.environ, **(env or {})},
            )
        self._running.append(process)
        return process.pid

    def ended(self) -> list[str]:
        """The programs that have ended although nobody stopped them."""
        return [str(p.args) for p in self._running if p.poll() is not None]

    def stop(self) -> None:
        """SIGTERM to all, last started first; SIGKILL to what is left after 5 s."""
        for process in reversed(self._running):
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in reversed(self._running):
            try:
                process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def children(pid: int) -> list[int]:
    """The processes below `pid`, itself included."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += children(int(child))
    return found
