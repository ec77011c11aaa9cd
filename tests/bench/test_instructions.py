from __future__ import annotations

from pathlib import Path

import pytest

from bench import instructions
from bench.instructions import parse_callgrind, parse_perf, sentence
from bench.processes import BenchError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1234567,,instructions:u,2100,100.00,,\n", 1234567),
        ("<not supported>,,instructions:u,0,100.00,,\n", None),
        ("", None),
    ],
)
def test_what_perf_counts(text: str, count: int | None) -> None:
    assert parse_perf(text) == count


def test_what_callgrind_dumps() -> None:
    assert parse_callgrind("version: 1\nsummary: 5\n\n\ntotals: 77\n") == 77
    with pytest.raises(BenchError, match="no totals"):
        parse_callgrind("version: 1\n")


def test_a_machine_without_counters_and_valgrind_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not counted: perf finds no hardware counters here, and valgrind is missing" in (
        sentence()
    )


def test_figures_are_thousands_a_request() -> None:
    said = instructions._said("h2", "callgrind", [200 * 184_200, 200 * 205_700])
    assert said == (
        "user-space instructions per request, h2: 184.2 thousand outbound, "
        "205.7 thousand inbound (callgrind)"
    )
