from __future__ import annotations

import trio
import trio.testing

from meshd.health import Verdict, watch
from meshkit.model.resources import Health, LocalService


def service(health: Health | None) -> LocalService:
    return LocalService("reviews", "default", "reviews", "v1", {}, (), health=health)


def test_one_good_answer_admits_and_two_bad_ones_remove() -> None:
    verdict = Verdict()
    seen = [(verdict.record(good), verdict.healthy) for good in (True, False, False, True)]
    assert seen == [(True, True), (False, True), (True, False), (True, True)]


def test_the_first_answer_decides_when_nothing_is_known() -> None:
    verdict = Verdict()
    assert verdict.record(False)
    assert verdict.healthy is False


def test_failures_must_be_in_a_row() -> None:
    verdict = Verdict()
    assert [verdict.record(x) for x in (True, False, True, False, True)] == [True] + [False] * 4


async def test_only_changes_are_reported_at_the_interval(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers = iter([False, False, True, True, False, False, True])
    asked: list[float] = []
    reports: list[tuple[float, str, bool]] = []

    async def ask(address: str, health: Health) -> bool:
        asked.append(trio.current_time())
        return next(answers)

    def report(instance: str, healthy: bool) -> None:
        reports.append((trio.current_time() - asked[0], instance, healthy))

    with trio.move_on_after(22):
        await watch(service(Health(None, 1, interval=5.0)), report, ask)
    assert [t - asked[0] for t in asked] == [0, 1, 2, 7, 12, 17, 18]
    name = "default/reviews/v1"
    assert reports == [(0, name, False), (2, name, True), (17, name, False), (18, name, True)]


async def test_without_a_check_the_service_counts_as_healthy() -> None:
    reports: list[tuple[str, bool]] = []
    await watch(service(None), lambda name, healthy: reports.append((name, healthy)))
    assert reports == [("default/reviews/v1", True)]
