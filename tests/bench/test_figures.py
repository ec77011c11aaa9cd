from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report
from bench.figures import (
    Result,
    Sample,
    Spread,
    TCPSample,
    Way,
    over,
    per_hop_us,
    ratio,
    rotated,
    spread,
)
from bench.measure import Load
from bench.transfer import Bulk


def sample(cpu_us: float, *, requests: int = 1000, rps: float = 100.0, p99: float = 2.0) -> Sample:
    """A round that cost `cpu_us` per request and hop."""
    load = Load(requests, rps, 1.0, p99, 0)
    return Sample(load, int(cpu_us * 2 * requests * 1000), int(requests * 1000))


def result(peer: str, *costs: float) -> Result:
    return Result(peer, 32, tuple(map(sample, costs)), 20.0)


def test_cpu_is_shared_by_both_hops() -> None:
    assert per_hop_us(60_000_000, 1000) == 30.0
    assert sample(30.0).cpu_us == pytest.approx(30.0)
    assert sample(30.0).agents_us == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], (3.0, 3.0, 3.0)), ([5.0, 1.0, 2.0], (2.0, 1.0, 5.0)), ([4.0, 2.0], (3.0, 2.0, 4.0))],
)
def test_spread(values: list[float], expected: tuple[float, float, float]) -> None:
    assert spread(values) == Spread(*expected)


def test_no_rounds_have_no_spread() -> None:
    with pytest.raises(ValueError, match="at least one"):
        spread([])


def test_ratios_are_taken_within_a_round() -> None:
    # Medians of the columns say 1.0; every single round says 0.5 or 2.
    ours, theirs = result("baremesh", 10.0, 20.0, 40.0), result("envoy", 20.0, 40.0, 20.0)
    assert ratio(ours.samples, theirs.samples, "cpu_us") == Spread(0.5, 0.5, 2.0)
    assert over(ours.samples, "cpu_us") == Spread(20.0, 10.0, 40.0)


def test_a_ratio_needs_the_same_rounds_and_a_divisor() -> None:
    one, two = [sample(1.0)], [sample(1.0), sample(2.0)]
    with pytest.raises(ValueError, match="zip"):
        ratio(one, two, "cpu_us")
    assert ratio(one, [sample(1.0, p99=0.0)], "p99_ms") is None


def test_every_peer_takes_every_place() -> None:
    names = ["a", "b", "c"]
    orders = [rotated(names, round_) for round_ in range(3)]
    assert [sorted(order) for order in orders] == [names] * 3
    assert [sorted(place) for place in zip(*orders, strict=True)] == [names] * 3
    assert rotated(names, 3) == names


def test_rows_have_exactly_the_keys_that_readers_expect(tmp_path: Path) -> None:
    file = tmp_path / "out" / "latest.json"
    report.write_latest([result("baremesh", 30.0, 31.0, 35.0)], file)
    assert json.loads(file.read_text()) == [
        {
            "peer": "baremesh",
            "protocol": "http/1.1",
            "connections": 32,
            "streams": 1,
            "rps": 100.0,
            "p50_ms": 1.0,
            "p99_ms": 2.0,
            "cpu_us_per_request_hop": 31.0,
            "pss_mb": 20.0,
        }
    ]


def tcp_sample(down_s: float, up_s: float) -> TCPSample:
    """A round that cost so many CPU seconds a GB and hop, and 30 µs a connection and hop."""
    ways = [Way(Bulk(10**8, 0.5), int(s * 2 * 10**8)) for s in (down_s, up_s)]
    return TCPSample(*ways, sample(30.0))


def test_bytes_are_counted_in_cpu_seconds_per_gb_and_hop() -> None:
    one = tcp_sample(0.4, 0.8)
    assert (one.down_s_per_gb, one.up_s_per_gb) == (pytest.approx(0.4), pytest.approx(0.8))
    assert one.s_per_gb == pytest.approx(0.6)
    assert (one.down_mb_per_s, one.up_mb_per_s) == (200.0, 200.0)


def test_a_row_of_tcp_has_no_requests() -> None:
    samples = (tcp_sample(0.4, 0.8), tcp_sample(0.5, 0.9), tcp_sample(0.9, 2.0))
    assert Result("envoy", 8, samples, 20.0, protocol="tcp").row() == {
        "peer": "envoy",
        "protocol": "tcp",
        "connections": 8,
        "streams": 1,
        "rps": None,
        "p50_ms": None,
        "p99_ms": None,
        "cpu_us_per_request_hop": None,
        "cpu_s_per_gb": 0.7,
        "cpu_s_per_gb_down": 0.5,
        "cpu_s_per_gb_up": 0.9,
        "connections_per_s": 100.0,
        "cpu_us_per_connection_hop": 30.0,
        "pss_mb": 20.0,
    }


def test_a_handshake_has_two_sides() -> None:
    one = Sample(Load(1000, 100.0, 1.0, 2.0, 0), 900_000_000, 0, 600_000_000)
    assert (one.outbound_us, one.inbound_us, one.cpu_us) == (600.0, 300.0, 450.0)
    (_, row) = report.measured([Result("envoy", 8, (one,), 20.0, protocol="handshake")])
    assert row[-3:] == ["600.0 (600.0–600.0)", "300.0 (300.0–300.0)", "20.0"]


def test_titles_say_streams_where_there_are_several() -> None:
    several = Result("envoy", 8, (sample(1.0),), 20.0, protocol="h2", streams=16)
    assert report.title([several]) == "8 connections with 16 streams each, h2, 1 round"


def test_tables() -> None:
    results = [result("baremesh", 30.0, 40.0, 20.0), result("envoy", 60.0, 50.0, 40.0)]
    assert report.measured(results)[1] == [
        "baremesh",
        "100 (100–100)",
        "1.00 (1.00–1.00)",
        "2.00 (2.00–2.00)",
        "30.0 (20.0–40.0)",
        "20.0",
    ]
    assert report.ratios(results)[1:] == [
        ["baremesh", "0.50 (0.50–0.80)", "1.00 (1.00–1.00)", "1.00 (1.00–1.00)"]
    ]
    assert len(report.ratios(results[:1])) == 1


def test_a_record_is_markdown_with_the_machine_first() -> None:
    text = report.record([("kernel", "Linux 6.1")], [[result("envoy", 60.0)]])
    assert text.startswith("| what | which |\n| --- | --- |\n| kernel | Linux 6.1 |\n")
    assert "### 32 connections, http/1.1, 1 round\n" in text
    assert "| envoy | 100 (100–100) |" in text


def test_a_record_ends_with_what_else_was_found() -> None:
    text = report.record([], [[result("envoy", 60.0)]], ["user-space instructions: 7"])
    assert text.endswith("\n\nUser-space instructions: 7.\n")
