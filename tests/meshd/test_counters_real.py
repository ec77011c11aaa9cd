"""kill −9 of a real writer at any moment: the file stays readable, and continues."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from meshd.counters import CounterFile, read

LIMIT = "meshd_limit_hits_total"

WRITER = """
import sys
from meshd.counters import CounterFile
file = CounterFile(sys.argv[1])
old = file.counter("meshd_limit_hits_total", {"limit": "old"})
number = 0
sys.stdout.write("up\\n"); sys.stdout.flush()
while True:
    number += 1
    label = "x" * (number % 97) + str(number)
    file.cells[file.counter("meshd_limit_hits_total", {"limit": label})] += 1
    file.cells[old] += 1
"""


def killed_writer(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"up\n"
        while len(list(read(path))) < 50:  # it is in the middle of appending
            pass
        writer.send_signal(signal.SIGKILL)


def test_killed_while_it_appends(tmp_path: Path) -> None:
    path = tmp_path / "counters.0"
    total = 0
    for _ in range(5):
        path.unlink(missing_ok=True)
        killed_writer(path)
        series = [s for s in read(path) if s.name == LIMIT]
        counts = {dict(s.labels)["limit"]: s.values[0] for s in series}
        old = counts.pop("old")
        assert len(counts) - old in (0, 1)
        assert all(value in (0, 1) for value in counts.values())
        assert len(counts) - sum(counts.values()) in (0, 1)
        file = CounterFile(path)
        assert file.reopened
        file.cells[file.counter(LIMIT, {"limit": "old"})] += 1
        file.cells[file.counter(LIMIT, {"limit": "after"})] += 1
        file.close()
        after = {dict(s.labels).get("limit"): s.values[0] for s in read(path)}
        assert after["old"] == old + 1 and after["after"] == 1
        total += old
    assert total > 0


def test_a_dead_writer_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "counters.0"
    killed_writer(path)
    CounterFile(path).close()
