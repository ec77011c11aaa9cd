"""Starting what is measured, pinned, and ending all of it whatever happens."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PROXY_CPU, LOAD_CPU = 1, 0
"""Proxies on one processor, load generator and application on the other."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Processes:
    """Child processes that die with us."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        log: Path,
        cpu: int | None = None,
        env: dict[str, str] | None = None,
    ) -> int:
        """Start it, its output into `log`; returns the pid."""
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

    def stop(self) -> None:
        """SIGTERM to all, last started first; SIGKILL to what is left after 3 s."""
        for process in reversed(self._running):
            process.terminate()
        deadline = time.monotonic() + 3
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
