from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.discovery.base import Held, Instance
from meshd.discovery.view import Answer, HoldRules, Keeper, key_of
from meshkit.names import ServiceName

REVIEWS = ServiceName("default", "reviews")


def instance(name: str, port: int = 9080) -> Instance:
    return Instance(REVIEWS, name, f"host-{name}", "10.0.0.1", port, "HTTP", mesh_port=15443)


def answer(healthy: str, failing: str = "", left: str = "") -> Answer:
    """One letter an instance."""
    return Answer(
        tuple(instance(name) for name in healthy),
        frozenset(key_of(instance(name)) for name in failing),
        frozenset(key_of(instance(name)) for name in left),
    )


def shown(keeper: Keeper) -> str:
    return "".join(i.instance for i in keeper.instances().get(REVIEWS, ()))


def keeper_with(names: str, seconds: float = 60.0) -> Keeper:
    keeper = Keeper(HoldRules(seconds))
    assert keeper.answer(REVIEWS, answer(names), 0.0) is bool(names)
    return keeper


BELIEVED = [
    ("abcd", answer("abc"), "one of four is gone"),
    ("abcd", answer("ab"), "half is not more than half"),
    ("abcd", answer("wxyz"), "as many came as went"),
    ("abcd", answer("a", left="bcd"), "they left by draining"),
    ("abcd", answer("", left="abcd"), "all left by draining"),
    ("abcd", answer("a", failing="bcd"), "they fail and one is well"),
    ("abcd", answer("a", failing="b", left="cd"), "each is explained"),
    ("abcd", answer("abcdefgh"), "more than before"),
    ("", answer(""), "there was nothing"),
]


@pytest.mark.parametrize(("before", "said", "why"), BELIEVED, ids=[row[2] for row in BELIEVED])
def test_believed_at_once(before: str, said: Answer, why: str) -> None:
    keeper = keeper_with(before)
    keeper.answer(REVIEWS, said, 1.0)
    assert shown(keeper) == "".join(i.instance for i in said.healthy)
    assert keeper.held() == ()
    assert keeper.next_expiry() is None


HELD = [
    ("abcd", answer(""), "abcd", "the answer is empty; 4 known before"),
    ("a", answer(""), "a", "the answer is empty; 1 known before"),
    ("abcd", answer("a"), "abcd", "3 of 4 instances missing"),
    ("abcd", answer("ax"), "abcd", ""),
    ("abcde", answer("ax"), "abcdex", "4 of 5 instances missing"),
    ("abcd", answer("", left="a"), "bcd", "the answer is empty; 3 known before"),
    ("abcd", answer("", failing="ab"), "cd", "the answer is empty; 4 known before"),
    ("ab", answer("", failing="ab"), "ab", "every instance fails its health check (2 of them)"),
    ("abcdef", answer("a", failing="b"), "acdef", "4 of 6 instances missing"),
]


@pytest.mark.parametrize(("before", "said", "kept", "reason"), HELD)
def test_held_until_its_time(before: str, said: Answer, kept: str, reason: str) -> None:
    keeper = keeper_with(before)
    keeper.answer(REVIEWS, said, 5.0)
    if not reason:
        assert keeper.held() == ()
        return
    assert shown(keeper) == kept
    assert keeper.held() == (Held(REVIEWS, reason, 5.0, 65.0),)
    assert keeper.next_expiry() == 65.0
    assert not keeper.expire(64.9)
    assert shown(keeper) == kept
    assert keeper.expire(65.0)
    assert shown(keeper) == "".join(i.instance for i in said.healthy)
    assert keeper.held() == ()


def test_the_same_bad_answer_again_does_not_lengthen_the_hold() -> None:
    keeper = keeper_with("abcd")
    assert keeper.answer(REVIEWS, answer(""), 5.0)
    assert not keeper.answer(REVIEWS, answer(""), 50.0)
    assert keeper.next_expiry() == 65.0


def test_a_good_answer_ends_the_hold() -> None:
    keeper = keeper_with("abcd")
    keeper.answer(REVIEWS, answer("a"), 5.0)
    keeper.answer(REVIEWS, answer("abc"), 6.0)
    assert shown(keeper) == "abc"
    assert keeper.held() == ()


def test_draining_during_a_hold_is_believed() -> None:
    keeper = keeper_with("abcd")
    keeper.answer(REVIEWS, answer(""), 5.0)
    keeper.answer(REVIEWS, answer("", left="abcd"), 6.0)
    assert shown(keeper) == ""


def test_failures_keep_everything_without_limit() -> None:
    keeper = keeper_with("ab")
    assert keeper.failed(REVIEWS, "refused", 10.0)
    assert not keeper.failed(REVIEWS, "refused", 11.0)
    assert not keeper.expire(1e9)
    assert keeper.next_expiry() is None
    assert keeper.held() == (Held(REVIEWS, "refused", 10.0, None),)
    assert keeper.answer(REVIEWS, answer("ab"), 1e9)
    assert keeper.held() == ()
    assert shown(keeper) == "ab"


def test_an_empty_answer_after_failures_gets_its_whole_time() -> None:
    keeper = keeper_with("ab")
    keeper.answer(REVIEWS, answer(""), 10.0)
    keeper.failed_all("refused", 20.0)
    assert not keeper.expire(500.0)
    keeper.answer(REVIEWS, answer(""), 500.0)
    assert keeper.next_expiry() == 560.0
    assert shown(keeper) == "ab"


def test_a_failure_about_an_unknown_service_shows_nothing() -> None:
    keeper = Keeper()
    assert not keeper.failed(REVIEWS, "refused", 1.0)
    assert keeper.held() == ()


def test_no_hold_when_configured_to_zero() -> None:
    keeper = keeper_with("abcd", seconds=0)
    keeper.answer(REVIEWS, answer(""), 1.0)
    assert shown(keeper) == ""


def test_services_that_nobody_watches_are_dropped() -> None:
    keeper = keeper_with("ab")
    assert not keeper.forget_others([REVIEWS])
    assert keeper.forget_others([])
    assert keeper.known() == frozenset()


def test_a_change_of_an_instance_is_shown() -> None:
    keeper = keeper_with("a")
    moved = Answer((Instance(REVIEWS, "a", "host-a", "10.0.0.2", 9080, "HTTP"),))
    assert keeper.answer(REVIEWS, moved, 1.0)
    assert keeper.instances()[REVIEWS][0].address == "10.0.0.2"
    assert not keeper.answer(REVIEWS, moved, 2.0)


names = st.text("abcdef", max_size=6).map(lambda text: "".join(sorted(set(text))))
steps = st.tuples(names, names, names, st.sampled_from(["answer", "fail", "wait"]))


@given(st.lists(steps, max_size=12))
def test_a_pool_is_emptied_only_by_draining_or_by_time(moves: list[tuple[str, ...]]) -> None:
    keeper, now, expired = Keeper(), 0.0, False
    for healthy, failing, left, move in moves:
        before = set(shown(keeper))
        now += 1.0
        if move == "fail":
            keeper.failed(REVIEWS, "refused", now)
            assert set(shown(keeper)) == before
        elif move == "wait":
            now += 60.0
            expired = keeper.expire(now)
            assert expired or set(shown(keeper)) == before
        else:
            keeper.answer(REVIEWS, answer(healthy, failing, left), now)
            if before - set(left):
                assert shown(keeper)
