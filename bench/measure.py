"""What a process cost: CPU nanoseconds from the scheduler, memory from smaps."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of the processes so far, all threads, in nanoseconds (schedstat, not ticks)."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size in MB: shared pages counted once."""
    kb = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kb += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1])  # type: ignore[index]
    return kb / 1024


@dataclass(frozen=True, slots=True)
class Load:
    """One run of the load generator."""

    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    failed: int


_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def wrk(url: str, host: str, connections: int, seconds: float, cpu: int) -> Load:
    """wrk on one processor; raises RuntimeError with its output where that makes no sense."""
    command = [
        "taskset",
        "-c",
        str(cpu),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--latency",
        "-H",
        f"Host: {host}",
        url,
    ]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    requests = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if requests is None or rate is None:
        raise RuntimeError(f"wrk said: {out}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    failed = sum(map(int, errors.groups())) if errors else 0
    return Load(
        int(requests[1]),
        float(rate[1]),
        _latency(out, "50"),
        _latency(out, "99"),
        failed + (int(bad[1]) if bad else 0),
    )


def _latency(out: str, percent: str) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)$", out, re.MULTILINE)
    return float(found[1]) * _UNITS[found[2]] if found else 0.0
