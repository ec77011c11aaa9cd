from __future__ import annotations

from bench.peers.mesh import Size, pieces, resources
from meshkit.model.load import load_text
from meshkit.model.resources import VirtualService


def test_the_route_table_is_valid_and_has_every_service_with_timeout_and_retries() -> None:
    loaded = [load_text(text, "bench.yaml") for text in pieces(resources(Size(20, 3, 2)))]
    assert [p for one in loaded for p in one.problems] == []
    found = [r for one in loaded for r in one.resources]
    kinds = [r.meta.kind for r in found]
    assert (kinds.count("VirtualService"), kinds.count("ServiceEntry")) == (20, 19)
    rules = [rule for r in found if isinstance(r, VirtualService) for rule in r.http]
    assert len(rules) == 60
    assert {rule.timeout for rule in rules} == {15.0}
    assert {rule.retries.attempts if rule.retries else 0 for rule in rules} == {2}


def test_pieces_stay_below_what_the_server_takes_at_once() -> None:
    texts = list(pieces(resources(Size(50, 3, 2)), limit=4096))
    assert len(texts) > 5
    assert max(map(len, texts)) < 2 * 4096
    whole = [r for text in texts for r in load_text(text, "bench.yaml").resources]
    assert len(whole) == 99
