from __future__ import annotations

from pathlib import Path

import pytest

from bench.h2load import Call, command, parse
from bench.measure import Load, LoadError

REPORT = """\
starting benchmark...
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 2.00s, 40050.00 req/s, 40.66MB/s
requests: 200 total, 210 started, {done} done, {succeeded} succeeded, \
0 failed, 0 errored, {timeout} timeout
status codes: {ok} 2xx, 0 3xx, 0 4xx, 0 5xx
"""
LOG = [f"1795421585655965\t200\t{microseconds}\n" for microseconds in range(200, 0, -1)]


def report(done: int = 200, succeeded: int = 200, ok: int = 200, timeout: int = 0) -> str:
    return REPORT.format(done=done, succeeded=succeeded, ok=ok, timeout=timeout)


def test_a_report_and_its_log() -> None:
    assert parse(report(), LOG) == Load(200, 40050.0, 0.101, 0.199, 0)


@pytest.mark.parametrize(
    ("text", "failed"),
    [(report(succeeded=197), 3), (report(ok=190), 10), (report(timeout=2), 2)],
)
def test_failures_of_every_kind_are_counted(text: str, failed: int) -> None:
    assert parse(text, LOG).failed == failed


@pytest.mark.parametrize("text", ["", "could not connect\n", report(done=0)])
def test_what_is_no_measurement_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="measured nothing"):
        parse(text, LOG)


def test_no_log_is_no_measurement() -> None:
    with pytest.raises(LoadError):
        parse(report(), [])


def test_a_command_with_a_body() -> None:
    call = Call("svc0", "/a", {"te": "trailers"}, Path("/m"))
    assert command(81, call, 8, 16, 3) == [
        *("h2load", "-t1", "-c8", "-m16", "-D3", "--connect-to=127.0.0.1:81"),
        *("-H", "te: trailers", "-d", "/m", "http://svc0/a"),
    ]
