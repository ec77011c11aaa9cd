from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from bench.__main__ import Job, main
from bench.protocols import PROTOCOLS, Shape


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--protocol", "h3"], "unknown: h3; there are http/1.1, h2, grpc, tcp, handshake"),
        (["--peers", "envoy,caddy"], "unknown: caddy; there are baremesh, envoy"),
        (["--connections", "0"], "'0': give numbers from 1 to 512"),
        (["--connections", "8,x"], "'x': give numbers from 1 to 512"),
        (["--protocol", "h2", "--peers", "nginx"], "h2 is not measured with nginx"),
        (["--protocol", "tcp", "--connections", "8x2"], "tcp has no streams"),
        (["--protocol", "h2", "--vary"], "--vary is for --protocol http/1.1"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(arguments: list[str], said: str) -> None:
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 2
    assert said in answer.output


def job(name: str, **options: object) -> Job:
    asked: dict[str, object] = dict.fromkeys(("wanted", "rounds", "seconds", "peers"))
    return Job(PROTOCOLS[name], **{"quick": False, "vary": False, **asked, **options})


def test_a_protocol_says_what_is_measured_of_it() -> None:
    h2 = job("h2")
    assert h2.peers == ["baremesh", "envoy", "haproxy", "nghttpx"]
    assert h2.shapes == [Shape(1, 1), Shape(4, 1), Shape(8, 16)]


def test_options_win_over_what_quick_and_the_protocol_say() -> None:
    quick = job("h2", quick=True)
    assert (quick.peers, quick.rounds) == (["baremesh", "envoy"], 4)
    asked = job("h2", quick=True, rounds=9, peers=["haproxy", "nginx"], wanted=[Shape(2, 3)])
    assert (asked.rounds, asked.peers, asked.shapes) == (9, ["haproxy"], [Shape(2, 3)])
    with pytest.raises(click.UsageError):
        job("grpc", peers=["haproxy"])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_quick_runs_end_within_50_seconds(name: str) -> None:
    plan = PROTOCOLS[name].quick
    loads = 3 if name == "tcp" else 1
    warm_up = 1
    runs = 2 * loads * len(job(name, quick=True).shapes)
    assert runs * (plan.rounds * (plan.seconds + 0.3) + warm_up) < 45
