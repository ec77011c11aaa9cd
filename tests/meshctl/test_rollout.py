from __future__ import annotations

from meshctl.rollout import Rollout, rollout
from meshctl.view import Discovery, Host


def host(name: str, revision: int, *, connected: bool = True, reason: str = "") -> Host:
    return Host(name, connected, 0.0, revision, not reason, reason, (), (), Discovery(), (), ())


def test_a_later_revision_is_live_too() -> None:
    assert rollout([host("a", 7), host("b", 8)], 7) == Rollout(live=("a", "b"))


def test_who_is_behind_is_named_with_its_revision() -> None:
    assert rollout([host("a", 6)], 7).behind == (("a", 6, ""),)


def test_a_refusal_of_this_revision() -> None:
    assert rollout([host("a", 7, reason="no subset v9")], 7).refused == (("a", "no subset v9"),)


def test_a_refusal_of_an_earlier_revision_is_the_past() -> None:
    found = rollout([host("a", 6, reason="no subset v9")], 7)
    assert found == Rollout(behind=(("a", 6, "no subset v9"),))


def test_nobody_waits_for_a_host_that_is_away() -> None:
    found = rollout([host("a", 7), host("b", 2, connected=False)], 7)
    assert (found.live, found.behind, found.away) == (("a",), (), ("b",))
