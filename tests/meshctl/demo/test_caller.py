from __future__ import annotations

from typing import Any

import pytest
import trio

from meshctl.demo.caller import Seen, first_failure, many, seen, told, versions
from meshctl.demo.screen import Verdict
from meshctl.demo.story import both, canary_verdict, only


def body(version: str, *stars: dict[str, Any]) -> dict[str, Any]:
    return {"served_by": {"version": version}, "reviews": [{"rating": s} for s in stars]}


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        (200, {"served_by": {"version": "v1"}, "reviews": [{}]}, Seen(200, "v1")),
        (200, body("v2", {"stars": 5}), Seen(200, "v2")),
        (200, body("v2", {"stars": 5}, {"error": "x"}), Seen(200, "v2", starless=True)),
        (503, {"error": "why"}, Seen(503, why="why")),
        (502, None, Seen(502)),
        (200, None, Seen(200)),
    ],
)
def test_what_an_answer_says(status: int, value: Any, expected: Seen) -> None:
    assert seen(status, value) == expected


def test_an_answer_without_a_version_is_no_success() -> None:
    assert not Seen(200).ok
    assert versions([Seen(200), Seen(200, "v1")]) == {"failed": 1, "v1": 1}


async def test_many_runs_each_number_once_and_no_more_at_once() -> None:
    numbers: list[int] = []
    running = peak = 0

    async def one(number: int) -> Seen:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        numbers.append(number)
        await trio.lowlevel.checkpoint()
        running -= 1
        return Seen(200, "v1")

    progress: list[int] = []
    answers = await many(100, one, progress.append, at_once=8)
    assert len(answers) == 100 and sorted(numbers) == list(range(100))
    assert peak == 8 and progress == [50, 100]


@pytest.mark.parametrize(
    ("v1", "v3", "other", "ok"),
    [
        (900, 100, 0, True),
        (930, 70, 0, True),
        (870, 130, 0, True),
        (931, 69, 0, False),
        (869, 131, 0, False),
        (900, 99, 1, False),
        (0, 0, 1000, False),
    ],
)
def test_the_canarys_bounds(v1: int, v3: int, other: int, ok: bool) -> None:
    answers = [Seen(200, "v1")] * v1 + [Seen(200, "v3")] * v3 + [Seen(503)] * other
    assert canary_verdict(answers).ok is ok


def test_one_wrong_version_fails_a_step_and_is_named() -> None:
    verdict = only([Seen(200, "v1"), Seen(503, why="no healthy upstream")], "v1", "others")
    assert not verdict.ok
    assert verdict.seen == "2 requests of others: failed 1, v1 1"
    assert "status 503 no healthy upstream" in verdict.expected


def test_no_answer_at_all_fails_a_step() -> None:
    assert not only([], "v1", "others").ok
    assert told(versions([])) == "nothing"
    assert first_failure([]) == ""


def test_both_hold_only_together() -> None:
    good, bad = Verdict(True, "a"), Verdict(False, "b", "c")
    assert both(good, good).ok
    assert both(good, bad) == Verdict(False, "a; b", "c")
