from __future__ import annotations

from typing import Any

import pytest

from meshctl.checks import Outcome, judge
from meshctl.commands.status import host_table, service_table
from meshctl.output import plain_table
from meshctl.view import Certificate, Discovery, parse, seconds_of

ANSWER: dict[str, Any] = {
    "revision": 7,
    "mesh": {"trustDomain": "demo.mesh", "domain": "svc.demo", "rootNamespace": "istio-system"},
    "hosts": [
        {
            "host": "b",
            "connected": True,
            "seen": 1000.0,
            "revision": 7,
            "accepted": True,
            "reason": "",
            "workers": [{"index": 0, "pid": 42, "revision": "abc"}],
            "certificates": [{"identity": "spiffe://demo.mesh/host/b", "notAfter": 87400.0}],
            "discovery": {
                "kind": "consul",
                "connected": True,
                "instances": 4,
                "held": [{"service": "default/x", "reason": "empty answer"}],
            },
            "services": [{"service": "default/reviews", "instance": "v1"}],
            "refused": [{"service": "default/shop", "reason": "why", "remedy": "do"}],
        },
        {"host": "new"},
    ],
    "services": [
        {"name": "default/reviews", "accounts": ["spiffe://x"], "hosts": ["b"], "endpoints": 1}
    ],
    "authority": [{"identity": "demo.mesh root", "notAfter": 1e9}],
}


def test_everything_that_the_server_says() -> None:
    status = parse(ANSWER)
    assert (status.revision, status.domain) == (7, "svc.demo")
    known, fresh = status.hosts
    assert known.workers == ((0, 42, "abc"),)
    assert known.certificates == (Certificate("spiffe://demo.mesh/host/b", 87400.0),)
    assert known.discovery == Discovery("consul", True, 4, (("default/x", "empty answer"),))
    assert known.services == ("default/reviews:v1",)
    assert known.refused == (("default/shop", "why", "do"),)
    assert (fresh.connected, fresh.revision, fresh.workers) == (False, 0, ())
    assert status.services[0].endpoints == 1


def test_a_worker_that_is_starting_has_no_pid_yet() -> None:
    host = {"host": "a", "workers": [{"index": 1, "pid": None, "revision": ""}]}
    assert parse({"hosts": [host]}).hosts[0].workers == ((1, 0, ""),)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(12, 12.0), (1.5, 1.5), ("1970-01-01T00:01:00+00:00", 60.0), ("", 0.0), (None, 0.0)],
)
def test_times(value: Any, seconds: float) -> None:
    assert seconds_of(value) == seconds


def test_status_as_tables() -> None:
    status = parse(ANSWER)
    lines = plain_table(host_table(status, 1000.0)).splitlines()
    assert lines[1].split() == [
        "b", "connected", "7", "1", "1d", "consul:", "1", "held", "default/reviews:v1",
    ]  # fmt: skip
    assert lines[2].split()[:4] == ["new", "never", "seen", "0"]
    assert "default/reviews  1" in plain_table(service_table(status))


def test_check_finds_what_is_wrong_with_it() -> None:
    groups = judge(parse(ANSWER), (), 1000.0)
    texts = [f.text for g in groups for f in g.findings if f.outcome is not Outcome.OK]
    assert texts == [
        "b may not serve default/shop: why",
        "new is never connected",
        "b holds the last good set of default/x: empty answer",
    ]
