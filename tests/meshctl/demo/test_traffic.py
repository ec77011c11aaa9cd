from __future__ import annotations

import math

import pytest

from meshctl.demo.traffic import Edge, Sample, flows, quantile, tally


def labels(code: str = "200", policy: str = "mutual_tls", **more: str) -> dict[str, str]:
    return {
        "reporter": "destination",
        "source_workload": "productpage",
        "destination_workload": "reviews-v1",
        "response_code": code,
        "connection_security_policy": policy,
        **more,
    }


def count(value: float, **more: str) -> Sample:
    return "istio_requests_total", labels(**more), value


def bucket(bound: str, value: float) -> Sample:
    return "istio_request_duration_milliseconds_bucket", labels(le=bound), value


EDGE = Edge("productpage", "reviews-v1", "b")


def test_counts_of_one_edge_are_added_over_codes() -> None:
    found = tally("b", [count(8), count(2, code="503"), count(1, code="0")])
    assert list(found) == [EDGE]
    assert (found[EDGE].requests, found[EDGE].failed, found[EDGE].mutual) == (11, 3, 11)


def test_the_callers_own_counters_are_left_out() -> None:
    assert not tally("a", [count(5, reporter="source")])


def test_a_flow_is_the_difference_of_two_readings() -> None:
    before = tally("b", [count(100), bucket("1", 100), bucket("+Inf", 100)])
    after = tally("b", [count(120), bucket("1", 110), bucket("5", 120), bucket("+Inf", 120)])
    (flow,) = flows(before, after, 2.0)
    assert (flow.edge, flow.rate, flow.success, flow.mutual) == (EDGE, 10.0, 1.0, 1.0)
    assert 0 < flow.p50 <= 1 < flow.p99 <= 5


def test_idle_edges_are_left_out() -> None:
    reading = tally("b", [count(100)])
    assert flows(reading, reading, 1.0) == []


def test_plaintext_shows_as_a_share() -> None:
    (flow,) = flows({}, tally("b", [count(3), count(1, policy="none")]), 1.0)
    assert flow.mutual == 0.75


@pytest.mark.parametrize(
    ("share", "expected"), [(0.25, 5.0), (0.5, 10.0), (0.75, 20.0), (1.0, 30.0)]
)
def test_quantiles_are_linear_inside_a_bucket(share: float, expected: float) -> None:
    assert quantile(share, {10.0: 50, 30.0: 100, math.inf: 100}) == pytest.approx(expected)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile(0.99, {10.0: 1, math.inf: 100}) == 10.0


def test_no_requests_have_no_quantile() -> None:
    assert math.isnan(quantile(0.5, {})) and math.isnan(quantile(0.5, {1.0: 0, math.inf: 0}))
