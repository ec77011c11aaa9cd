"""One short round through real proxies: the whole benchmark works, whatever its figures."""

from __future__ import annotations

from pathlib import Path

from bench.rounds import Bench


def test_a_round_of_the_real_mesh_and_a_peer(tmp_path: Path) -> None:
    with Bench(["baremesh", "nginx"], tmp_path) as bench:
        ours, theirs = bench.at(connections=2, rounds=1, seconds=1)
        assert len(bench.peers["baremesh"].pids()) == 4
    assert (ours.peer, theirs.peer) == ("baremesh", "nginx")
    for result in (ours, theirs):
        (sample,) = result.samples
        assert sample.load.requests > 0
        assert sample.cpu_us > sample.agents_us >= 0
        assert result.pss_mb > result.agents_pss_mb
    assert ours.agents_pss_mb > 1
    assert theirs.agents_pss_mb == 0
