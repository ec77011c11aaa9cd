"""The table of metrics, and the page made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshkit.telemetry.docs import main, render
from meshkit.telemetry.metrics import (
    DURATION_BOUNDS,
    ISTIO_LABELS,
    ISTIO_STREAM_LABELS,
    METRICS,
    SIZE_BOUNDS,
    SIZE_BUCKETS,
    bucket,
    metric,
)

ROOT = Path(__file__).parents[3]


def test_names_follow_prometheus() -> None:
    for name, declared in METRICS.items():
        assert re.fullmatch(r"(istio|meshd)_[a-z0-9_]+", name)
        assert name.endswith("_total") == (declared.type == "counter")
        assert bool(declared.bounds) == (declared.type == "histogram")
        assert declared.help.endswith(".") or declared.help[-1].isalnum()
        assert list(declared.bounds) == sorted(set(declared.bounds))


def test_requests_carry_the_labels_of_istio() -> None:
    assert len(ISTIO_LABELS) == len(set(ISTIO_LABELS)) == 25
    for name in ("istio_requests_total", "istio_request_duration_milliseconds"):
        assert METRICS[name].labels == ISTIO_LABELS


def test_buckets_are_inclusive() -> None:
    assert bucket(DURATION_BOUNDS, 0) == bucket(DURATION_BOUNDS, 0.5) == 0
    assert bucket(DURATION_BOUNDS, 0.6) == bucket(DURATION_BOUNDS, 1) == 1
    assert bucket(DURATION_BOUNDS, 4e6) == len(DURATION_BOUNDS)


def test_sizes_find_their_bucket_by_their_bits() -> None:
    for size in (0, 1, 63, 64, 1023, 1024, 2**20 - 1, 2**20, 2**30 - 1, 2**30, 2**60):
        assert SIZE_BUCKETS[size.bit_length()] == bucket(SIZE_BOUNDS, size)


def test_connections_have_no_code() -> None:
    assert set(ISTIO_LABELS) - set(ISTIO_STREAM_LABELS) == {
        "response_code",
        "grpc_response_status",
    }
    for name in METRICS:
        if name.startswith("istio_tcp_"):
            assert METRICS[name].labels == ISTIO_STREAM_LABELS


def test_an_undeclared_metric_cannot_be_made() -> None:
    with pytest.raises(KeyError, match="declare it"):
        metric("meshd_nothing_total")


def test_the_page_names_every_metric_and_label() -> None:
    page = render()
    for name in (*METRICS, *ISTIO_LABELS):
        assert f"`{name}`" in page


def test_the_page_in_docs_is_up_to_date() -> None:
    assert main(["--check", str(ROOT / "docs" / "metrics.md")]) == 0


def test_check_tells_a_stale_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "metrics.md"
    assert main(["--check", str(page)]) == 1
    page.write_text(render() + "x")
    assert main(["--check", str(page)]) == 1
    assert "out of date" in capsys.readouterr().err
    page.write_text(render())
    assert main(["--check", str(page)]) == 0
    assert main(["--wrong"]) == 2


def test_every_metric_is_used_somewhere() -> None:
    """Workers name a counter without its prefix and suffix: ``ctx.bump("retries")``."""
    folders = [ROOT / "meshd", ROOT / "gateway", ROOT / "ca"]
    code = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    for name in METRICS:
        short = re.escape(name.removeprefix("meshd_").removesuffix("_total"))
        assert f'"{name}"' in code or re.search(rf'bump\(\s*"{short}"', code), name
