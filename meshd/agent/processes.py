"""Worker processes: started by argv in a session of their own, found again by pid file.

The pid file holds pid and start time (field 22 of ``/proc/<pid>/stat``): a pid
is reused after a reboot or a busy day, the pair is not.  The command line is
compared too, so that a file left by an older layout adopts nobody.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshd.agent.files import write_atomic

PROGRAM = (sys.executable, "-m", "meshd.worker")
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""All that a worker sees of the agent's environment: no token, no proxy setting."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Command:
    """Where workers meet the agent; the argv is the whole interface."""

    runtime: Path
    program: tuple[str, ...] = PROGRAM

    def argv(self, index: int) -> list[str]:
        counters = self.runtime / f"counters.{index}"
        return [
            *(*self.program, "--index", str(index)),
            *("--socket", str(self.runtime / "worker.sock"), "--counters", str(counters)),
        ]

    def pid_file(self, index: int) -> Path:
        return self.runtime / f"worker.{index}.pid"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in PASSED_ON if name in environ}


class Worker:
    """A live process, ours or of an earlier agent, held by a pidfd."""

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None = None):
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self._popen = popen

    def signal(self, number: signal.Signals) -> None:
        """By pidfd: never hits a stranger that got the same pid."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def reap(self) -> int | None:
        """After its end: the exit status (negative: a signal), None if it was not our child."""
        os.close(self.pidfd)
        return self._popen.wait() if self._popen is not None else None


def start(command: Command, index: int, environ: Mapping[str, str], *, owned: bool) -> Worker:
    """Start a worker; OSError where it cannot be.

    ``owned``: it dies with this process (`meshd run --own-workers`), else it
    lives on and the next agent adopts it.  Called from the main thread only:
    the death signal is sent when the *thread* that forked ends.
    """
    popen = subprocess.Popen(
        command.argv(index),
        env=environment(environ),
        stdin=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        preexec_fn=_die_with_parent() if owned else None,
    )
    return record(command, index, Worker(popen.pid, popen))


def record(command: Command, index: int, worker: Worker) -> Worker:
    """Write the pid file by which the next agent finds this worker; returns it."""
    text = f"{worker.pid} {start_time(worker.pid)}\n"
    write_atomic(command.pid_file(index), text.encode())
    return worker


def _die_with_parent() -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork
    parent = os.getpid()

    def after_fork() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return after_fork


def find(command: Command, index: int, proc: Path = Path("/proc")) -> Worker | None:
    """The running worker that an earlier agent left for this index."""
    try:
        pid, _, born = command.pid_file(index).read_text().partition(" ")
        worker = Worker(int(pid))
    except (OSError, ValueError):
        return None
    if is_worker(command.argv(index), born.strip(), int(pid), proc):
        return worker
    worker.reap()
    return None


def is_worker(argv: Sequence[str], born: str, pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether ``pid`` is the process that was started then with these arguments."""
    try:
        command = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    wanted = [argument.encode() for argument in argv[1:]]
    return command[1 : len(wanted) + 1] == wanted and start_time(pid, proc) == born


def start_time(pid: int, proc: Path = Path("/proc")) -> str:
    """Clock ticks since boot at which the process began; "" if it is gone."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return ""
    # The command's name may hold spaces and brackets: fields count from the last ")".
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""
