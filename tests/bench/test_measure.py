from __future__ import annotations

import pytest

from bench.measure import Load, LoadError, parse_wrk

REPORT = """\
Running 3s test @ http://127.0.0.1:1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     8.32ms    2.11ms  44.02ms   91.10%
    Req/Sec     3.90k   321.12     4.55k    70.00%
  Latency Distribution
     50%    {p50}
     75%    9.01ms
     90%   10.40ms
     99%   {p99}
  11648 requests in 3.00s, 13.44MB read
{errors}Requests/sec:   3880.12
Transfer/sec:      4.48MB
"""


def report(p50: str = "8.02ms", p99: str = "1.02s", errors: str = "") -> str:
    return REPORT.format(p50=p50, p99=p99, errors=errors)


def test_a_report() -> None:
    assert parse_wrk(report()) == Load(11648, 3880.12, 8.02, 1020.0, 0)


@pytest.mark.parametrize(
    ("printed", "milliseconds"), [("812.00us", 0.812), ("3.50ms", 3.5), ("1.25s ", 1250.0)]
)
def test_units(printed: str, milliseconds: float) -> None:
    assert parse_wrk(report(p50=printed)).p50_ms == pytest.approx(milliseconds)


def test_failures_of_every_kind_are_counted() -> None:
    socket_errors = "  Socket errors: connect 1, read 2, write 3, timeout 4\n"
    statuses = "  Non-2xx or 3xx responses: 5\n"
    assert parse_wrk(report(errors=socket_errors)).failed == 10
    assert parse_wrk(report(errors=statuses)).failed == 5
    assert parse_wrk(report(errors=socket_errors + statuses)).failed == 15


@pytest.mark.parametrize(
    "out",
    [
        "",
        "unable to connect to 127.0.0.1:1 Connection refused\n",
        report().replace("11648 requests", "0 requests"),
        report().replace("     99%   1.02s\n", ""),
    ],
)
def test_what_is_no_measurement_is_refused(out: str) -> None:
    with pytest.raises(LoadError):
        parse_wrk(out)
