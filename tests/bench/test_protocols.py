from __future__ import annotations

import pytest

from bench.figures import Result, Sample, TCPSample, Way, over
from bench.measure import Load
from bench.protocols import PEERS, PROTOCOLS, Shape, shapes
from bench.transfer import Bulk


def test_shapes_are_connections_with_or_without_streams() -> None:
    assert shapes("8,1x1,8x16") == [Shape(8), Shape(1, 1), Shape(8, 16)]
    assert [str(shape) for shape in shapes("8,8x16")] == ["8", "8x16"]


@pytest.mark.parametrize("text", ["", "0", "8x", "8x0", "1x2x3", "513", "8,,9", "-1", "１"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give numbers from 1 to 512"):
        shapes(text)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_peers_that_exist_and_figures_that_its_samples_have(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert set(protocol.peers) <= set(PEERS)
    one = Sample(Load(10, 10.0, 1.0, 2.0, 0), 4_000_000, 0, 1_000_000)
    way = Way(Bulk(10**9, 1.0), 10**9)
    sample = TCPSample(way, way, one) if name == "tcp" else one
    for column in (*protocol.columns, *protocol.ratios):
        assert over([sample], column.quantity).median > 0
    row = Result("envoy", 1, (sample,), 1.0, protocol=name).row()
    assert row["protocol"] == name
