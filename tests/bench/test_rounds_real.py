"""One short round of each protocol through real proxies, whatever the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.figures import Result
from bench.protocols import Shape
from bench.rounds import Bench

ROUNDS = {
    "http/1.1": ("nginx", Shape(2)),
    "h2": ("nghttpx", Shape(2, 4)),
    "grpc": ("envoy", Shape(2, 4)),
    "tcp": ("haproxy", Shape(2)),
    "handshake": ("haproxy", Shape(2)),
}


def measured(names: list[str], folder: Path, protocol: str) -> list[Result]:
    with Bench(names, folder, protocol) as bench:
        results = bench.at(ROUNDS[protocol][1], rounds=1, seconds=1)
        if "baremesh" in names:
            assert len(bench.peers["baremesh"].pids()) == 4
        return results


@pytest.mark.parametrize("protocol", ROUNDS)
def test_a_round_of_the_real_mesh_and_a_peer(tmp_path: Path, protocol: str) -> None:
    ours, theirs = measured(["baremesh", ROUNDS[protocol][0]], tmp_path, protocol)
    assert (ours.peer, theirs.peer) == ("baremesh", ROUNDS[protocol][0])
    for result in (ours, theirs):
        (sample,) = result.samples
        assert sample.rps > 0
        assert sample.cpu_us > sample.agents_us >= 0
        assert result.pss_mb > result.agents_pss_mb
    assert ours.agents_pss_mb > 1
    assert theirs.agents_pss_mb == 0
