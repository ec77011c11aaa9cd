"""Counter files: what is published is whole, continues, and is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as Family

from meshd.counters import CounterFile, CounterFileBusy, collect, merge, read
from meshkit.telemetry.metrics import DURATION_BOUNDS, ISTIO_LABELS, METRICS

LIMIT = "meshd_limit_hits_total"
DURATION = "istio_request_duration_milliseconds"
LABELS = dict.fromkeys(ISTIO_LABELS, "unknown")


def values(path: Path) -> dict[str, tuple[int, ...]]:
    return {s.name: s.values for s in read(path) if s.name != "meshd_series_overflow_total"}


def test_counters_are_read_while_the_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "counters.0"
    file = CounterFile(path)
    offset = file.counter(LIMIT, {"limit": "no_host"})
    assert file.counter(LIMIT, {"limit": "no_host"}) == offset
    file.cells[offset] += 3
    assert values(path) == {LIMIT: (3,)}
    file.cells[offset] += 1
    assert values(path) == {LIMIT: (4,)}
    file.close()


def test_a_reopened_file_continues_and_gauges_start_afresh(tmp_path: Path) -> None:
    path = tmp_path / "counters.0"
    file = CounterFile(path)
    assert not file.reopened
    file.cells[file.counter(LIMIT, {"limit": "a"})] = 2**63
    file.cells[file.gauge("meshd_connections")] = 7
    file.observe(file.histogram(DURATION, LABELS), METRICS[DURATION], 3.25)
    file.close()
    again = CounterFile(path)
    assert again.reopened
    again.cells[again.counter(LIMIT, {"limit": "a"})] += 1
    seen = values(path)
    assert seen[LIMIT] == (2**63 + 1,)
    assert seen["meshd_connections"] == (0,)
    assert sum(seen[DURATION][:-1]) == 1 and seen[DURATION][-1] == 3250
    again.close()


def test_a_second_writer_is_refused_and_told_why(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "counters.0")
    with pytest.raises(CounterFileBusy, match="give each its own"):
        CounterFile(tmp_path / "counters.0")
    file.close()
    CounterFile(tmp_path / "counters.0").close()


@pytest.mark.parametrize(
    "damage",
    [b"", b"garbage", b"BMCNT\x00\x00\x01" + b"\xff" * 8, b"BMCNT\x00\x00\x01\x18" + b"\0" * 15],
)
def test_what_is_no_counter_file_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "counters.0"
    path.write_bytes(damage)
    file = CounterFile(path)
    assert not file.reopened
    file.cells[file.counter(LIMIT, {"limit": "a"})] += 1
    assert values(path) == {LIMIT: (1,)}
    file.close()


def test_an_unpublished_record_is_neither_read_nor_kept(tmp_path: Path) -> None:
    """A writer that died before its last store: its bytes are beyond `used`."""
    path = tmp_path / "counters.0"
    file = CounterFile(path)
    file.counter(LIMIT, {"limit": "a"})
    before = file.cells[1]
    offset = file.counter(LIMIT, {"limit": "half"})
    file.cells[offset] = 99
    file.cells[1] = before
    file.close()
    assert [s.labels for s in read(path) if s.name == LIMIT] == [(("limit", "a"),)]
    again = CounterFile(path)
    fresh = again.counter(LIMIT, {"limit": "half"})
    assert fresh == offset and again.cells[fresh] == 0
    again.close()


def test_a_full_file_counts_what_found_no_room(tmp_path: Path) -> None:
    path = tmp_path / "counters.0"
    file = CounterFile(path, size=4096)
    for number in range(200):
        file.cells[file.counter(LIMIT, {"limit": str(number)})] += 1
    file.observe(file.histogram(DURATION, LABELS), METRICS[DURATION], 1.0)
    series = list(read(path))
    (overflow,) = [s.values[0] for s in series if s.name == "meshd_series_overflow_total"]
    kept = sum(s.values[0] for s in series if s.name == LIMIT)
    assert 0 < kept < 200 and overflow > 0
    assert not [s for s in series if s.name == DURATION]
    assert file.cells[1] <= 4096
    file.close()


def test_names_labels_and_bounds_must_be_declared(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "counters.0")
    with pytest.raises(KeyError, match="declare it"):
        file.counter("meshd_nothing_total")
    with pytest.raises(ValueError, match="its labels are limit"):
        file.counter(LIMIT, {"reason": "a"})
    with pytest.raises(ValueError, match="bounds differ"):
        file.histogram(DURATION, LABELS, (1.0, 2.0))
    with pytest.raises(ValueError, match="4096"):
        CounterFile(tmp_path / "counters.1", size=100)
    file.close()


def two_workers(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "counters.0", tmp_path / "counters.1"]
    for number, path in enumerate(paths):
        file = CounterFile(path)
        file.cells[file.counter(LIMIT, {"limit": "a"})] += number + 1
        for value in (0.5, 0.7, 10_000_000):
            file.observe(file.histogram(DURATION, LABELS), METRICS[DURATION], value)
        file.close()
    return paths


def test_merge_sums_over_workers_and_passes_missing_files(tmp_path: Path) -> None:
    cells = merge([*two_workers(tmp_path), tmp_path / "counters.9"])
    assert cells[LIMIT, (("limit", "a"),)] == [3]


def test_prometheus_text(tmp_path: Path) -> None:
    paths = two_workers(tmp_path)

    class Collector:
        def collect(self) -> list[Family]:
            return collect(paths)

    registry = CollectorRegistry()
    registry.register(Collector())
    lines = generate_latest(registry).decode().splitlines()
    assert 'meshd_limit_hits_total{limit="a"} 3.0' in lines
    buckets = [line for line in lines if line.startswith(DURATION + "_bucket")]
    counts = [float(line.rpartition(" ")[2]) for line in buckets]
    assert counts[0] == 2.0 and counts[1] == 4.0 and counts[-1] == 6.0
    assert 'le="+Inf"' in buckets[-1] and len(buckets) == len(DURATION_BOUNDS) + 1
    assert any(line.startswith(DURATION + "_count") and line.endswith(" 6.0") for line in lines)
