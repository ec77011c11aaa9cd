"""User-space instructions per request of our workers: no neighbour on the machine disturbs them.

    python -m bench.instructions [http/1.1 | h2 | grpc]

`perf` counts them where the processor lets it; a virtual machine often does not,
and then valgrind's callgrind does, in a mesh of its own whose workers run in it.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import certs
from bench.answers import GRPC_HEADERS
from bench.applications.start import MESSAGE, METHOD, application
from bench.h2load import Call, command
from bench.peers import mesh
from bench.peers.running import HOST, Running
from bench.processes import BenchError, Processes, children

REQUESTS = 200
"""One after another on one connection; each costs the same, so more would say no more."""

LOADS = 3
"""Of so many requests, of which the cheapest counts: a worker has other work now and then,
and the longer a busy machine takes for the requests the more of it falls among them."""

WARM_UP = 50
"""Pools, parsed routes, and the specializing interpreter's first passes."""

PERF = ("perf", "stat", "-x,", "-e", "instructions:u")
ATTACH_SECONDS = 0.5
WHAT = "user-space instructions per request"

Count = Callable[[Sequence[int], Path, Callable[[], None]], list[int]]
"""Of worker pids, the mesh's folder and a load: what each of them executed meanwhile."""


def sentence(protocol: str = "http/1.1") -> str:
    """The figures, or why there are none.  Raises BenchError."""
    if _counters():
        return _said(protocol, "perf", _measured(protocol, _perf))
    if shutil.which("valgrind") is None:
        return f"{WHAT}: not counted: perf finds no hardware counters here, and valgrind is missing"
    return _said(protocol, "callgrind", _measured(protocol, _callgrind, under_valgrind=True))


def _said(protocol: str, by: str, counts: list[int]) -> str:
    out, inner = (f"{count / REQUESTS / 1000:.1f}" for count in counts)
    return f"{WHAT}, {protocol}: {out} thousand outbound, {inner} thousand inbound ({by})"


def _counters() -> bool:
    if shutil.which("perf") is None:
        return False
    done = subprocess.run([*PERF, "true"], capture_output=True, text=True, check=False)
    return parse_perf(done.stderr) is not None


def parse_perf(text: str) -> int | None:
    """The count in ``perf stat -x,``; None where the counter is not supported."""
    found = re.search(r"^(\d+),[^,]*,instructions:u", text, re.MULTILINE)
    return int(found[1]) if found else None


def parse_callgrind(text: str) -> int:
    """The sum of a dump (callgrind's format, "totals").  Raises BenchError."""
    found = re.search(r"^totals: (\d+)", text, re.MULTILINE)
    if found is None:
        raise BenchError("callgrind wrote no totals")
    return int(found[1])


def _measured(protocol: str, count: Count, under_valgrind: bool = False) -> list[int]:
    """Instructions of the outbound and the inbound worker over REQUESTS."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with _mesh(folder, protocol, under_valgrind) as peer:
            workers = [p for agent in peer.agents for p in children(agent) if p != agent]
            _load(peer, protocol, folder, WARM_UP)
            return count(workers, folder, lambda: _load(peer, protocol, folder, REQUESTS))


@contextmanager
def _mesh(folder: Path, protocol: str, under_valgrind: bool) -> Iterator[Running]:
    processes = Processes()
    try:
        certs.make(folder)
        backend = application(protocol, folder, processes)
        python = str(_wrapper(folder)) if under_valgrind else None
        yield mesh.start(folder, backend, processes, protocol, worker_python=python)
    finally:
        processes.stop()


def _wrapper(folder: Path) -> Path:
    """A program that is the interpreter under callgrind, which does not count yet."""
    program = folder / "python-callgrind"
    program.write_text(
        "#!/bin/sh\n"
        "export PYTHONHASHSEED=0\n"  # else the collisions in dicts differ from run to run
        "exec valgrind -q --tool=callgrind --instr-atstart=no "
        f'--callgrind-out-file={folder}/count.%p {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    return program


def _load(peer: Running, protocol: str, folder: Path, requests: int) -> None:
    call = Call(HOST)
    if protocol == "grpc":
        message = folder / "message"
        message.write_bytes(MESSAGE)
        call = Call(HOST, METHOD, GRPC_HEADERS, message)
    words = [word for word in command(peer.port, call, 1, 1, 0) if not word.startswith("-D")]
    words[1:1] = [f"-n{requests}", *(["--h1"] if protocol == "http/1.1" else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if f"status codes: {requests} 2xx" not in done.stdout:
        raise BenchError(f"{peer.name}: {done.stdout.strip()[-400:]} {done.stderr.strip()}")


def _perf(workers: Sequence[int], _: Path, load: Callable[[], None]) -> list[int]:
    return _cheapest(_perf_once(workers, load) for _ in range(LOADS))


def _perf_once(workers: Sequence[int], load: Callable[[], None]) -> list[int]:
    running = [
        subprocess.Popen([*PERF, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
        for pid in workers
    ]
    time.sleep(ATTACH_SECONDS)
    load()
    for process in running:
        process.send_signal(signal.SIGINT)
    return [parse_perf(process.communicate()[1]) or 0 for process in running]


def _callgrind(workers: Sequence[int], folder: Path, load: Callable[[], None]) -> list[int]:
    """Code that runs for the first time is translated then; callgrind counts what runs."""
    _control(workers, "-i", "on")
    load()
    _control(workers, "-z")
    for _ in range(LOADS):
        load()
        _control(workers, "-d")  # a file each time, and from zero again
    files = ([folder / f"count.{pid}.{n + 1}" for pid in workers] for n in range(LOADS))
    return _cheapest([parse_callgrind(file.read_text()) for file in dumped] for dumped in files)


def _cheapest(loads: Iterable[list[int]]) -> list[int]:
    """Of each worker."""
    return [min(counts) for counts in zip(*loads, strict=True)]


def _control(workers: Sequence[int], *words: str) -> None:
    """Tell callgrind in each worker."""
    for pid in workers:
        done = subprocess.run(
            ["callgrind_control", *words, str(pid)], capture_output=True, text=True, check=False
        )
        if "OK." not in done.stdout:
            raise BenchError(f"callgrind_control {words[0]}: {done.stdout} {done.stderr}")


if __name__ == "__main__":
    print(sentence(*sys.argv[1:2]))
