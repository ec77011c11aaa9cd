"""What a process cost, and what a load generator saw."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of the processes so far, in nanoseconds.

    The process's own clock (clock_getcpuclockid(3)): the scheduler's sum over all
    threads, those that have ended included, which a walk over /proc misses.
    """
    return sum(time.clock_gettime_ns(_cpu_clock(pid)) for pid in pids)


def _cpu_clock(pid: int) -> int:
    """The kernel's clock id of another process: the pid inverted, clock type 2 (SCHED)."""
    return (~pid << 3) | 2


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size in MB (2^20 bytes): shared pages counted once."""
    return sum(_pss_kb(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in pids) / 1024


def _pss_kb(rollup: str) -> int:
    found = re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
    if found is None:
        raise ValueError("no Pss line: this kernel has no smaps_rollup (needs 4.14)")
    return int(found[1])


@dataclass(frozen=True, slots=True)
class Load:
    """One run of the load generator; latencies in milliseconds."""

    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    failed: int


class LoadError(Exception):
    """The load generator did not do its work; the message holds what it said."""


_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def parse_wrk(out: str) -> Load:
    """wrk's report with --latency.  Raises LoadError where it is none."""
    requests = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if requests is None or rate is None or not int(requests[1]):
        raise LoadError(f"wrk measured nothing: {out.strip() or 'no output'}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    failed = sum(map(int, errors.groups())) if errors else 0
    failed += int(refused[1]) if refused else 0
    return Load(
        int(requests[1]), float(rate[1]), _percentile(out, 50), _percentile(out, 99), failed
    )


def _percentile(out: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m) *$", out, re.MULTILINE)
    if found is None:
        raise LoadError(f"wrk printed no {percent}th percentile: {out.strip()}")
    return float(found[1]) * _UNITS[found[2]]


def wrk(
    url: str,
    host: str,
    connections: int,
    seconds: int,
    cpu: int,
    script: Path | None = None,
    headers: Iterable[str] = (),
) -> Load:
    """Load one URL from one thread on processor `cpu`; a script makes requests of its own.

    Raises LoadError.
    """
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    for header in (f"Host: {host}", *headers):
        command += ["-H", header]
    if script is not None:
        command += ["-s", str(script)]
    command += ["--latency", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadError(f"wrk ended with status {done.returncode}: {done.stderr.strip()}")
    return parse_wrk(done.stdout)
