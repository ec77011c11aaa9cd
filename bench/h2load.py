"""h2load: requests over HTTP/2, on several connections with several streams each."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Load, LoadError


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked for; a body makes it a POST."""

    authority: str
    path: str = "/"
    headers: Mapping[str, str] | None = None
    body: Path | None = None


def parse(out: str, log: Iterable[str]) -> Load:
    """h2load's report and its log of requests.  Raises LoadError where it is none.

    The log has a line a request: start, status, microseconds (h2load(1), --log-file);
    the report itself has no percentiles.
    """
    rate = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", out)
    counts = re.search(
        r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, "
        r"\d+ failed, \d+ errored, (\d+) timeout",
        out,
    )
    statuses = re.search(r"status codes: (\d+) 2xx", out)
    times = sorted(int(line.split()[2]) for line in log)
    if not (rate and counts and statuses and times and int(counts[1])):
        raise LoadError(f"h2load measured nothing: {out.strip()[-400:] or 'no output'}")
    done, succeeded, timeout = map(int, counts.groups())
    failures = done - min(succeeded, int(statuses[1])) + timeout
    return Load(done, float(rate[1]), _ms(times, 50), _ms(times, 99), failures)


def _ms(times: list[int], percent: int) -> float:
    """A percentile of sorted microseconds, in milliseconds."""
    return times[min(len(times) - 1, len(times) * percent // 100)] / 1000


def command(port: int, call: Call, connections: int, streams: int, seconds: int) -> list[str]:
    """The whole command line but for the log."""
    words = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}"]
    words += [f"--connect-to=127.0.0.1:{port}"]
    for name, value in (call.headers or {}).items():
        words += ["-H", f"{name}: {value}"]
    if call.body is not None:
        words += ["-d", str(call.body)]
    return [*words, f"http://{call.authority}{call.path}"]


def h2load(
    port: int, call: Call, connections: int, streams: int, seconds: int, cpu: int, log: Path
) -> Load:
    """Load one path from one thread on processor `cpu`; `log` is written over.

    Raises LoadError.
    """
    log.unlink(missing_ok=True)
    words = ["taskset", "-c", str(cpu), *command(port, call, connections, streams, seconds)]
    words[-1:-1] = [f"--log-file={log}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not log.exists():
        raise LoadError(f"h2load ended with status {done.returncode}: {done.stderr.strip()}")
    with log.open() as lines:
        return parse(done.stdout, lines)
