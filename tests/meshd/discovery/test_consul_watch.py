"""The rules of blocking queries, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
from consul.exceptions import ACLPermissionDenied, ClientError, ConsulException
from trio.testing import MockClock

from meshd.discovery.consul_http import WAIT
from meshd.discovery.consul_records import MalformedAnswer
from meshd.discovery.consul_watch import DOUBT, PACE, follow, next_index
from meshd.discovery.timing import LONGEST, Backoff

INDEXES = [(0, "7", 7), (7, "7", 7), (7, "9", 9), (9, "7", 0), (0, "0", 1), (5, "0", 0)]


@pytest.mark.parametrize(("before", "said", "after"), INDEXES)
def test_next_index(before: int, said: str, after: int) -> None:
    assert next_index(before, said) == after


@pytest.mark.parametrize("said", ["", "-1", "1.5", "x", "٣", None])
def test_an_index_that_is_no_number(said: Any) -> None:
    with pytest.raises(MalformedAnswer):
        next_index(0, said)


class Catalog:
    """A scripted server: each step answers, raises, or (at the end) blocks for ever."""

    def __init__(self, *steps: tuple[str, Any] | Exception) -> None:
        self.steps = list(steps)
        self.asked: list[int] = []
        self.taken: list[Any] = []
        self.failed: list[Exception] = []

    async def ask(self, index: int, _wait: float) -> tuple[Any, Any]:
        self.asked.append(index)
        if not self.steps:
            await trio.sleep_forever()
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def run(self, take: Callable[[Any], None] | None = None) -> None:
        """Until all steps are done and the next question waits."""
        backoff = Backoff(random.Random(1).random)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                follow, self.ask, take or self.taken.append, self.failed.append, backoff
            )
            while self.steps or len(self.asked) <= len(self.taken) + len(self.failed):
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


async def test_the_index_is_repeated(autojump_clock: MockClock) -> None:
    server = Catalog(("5", "a"), ("6", "b"))
    await server.run()
    assert server.asked == [0, 5, 6]
    assert server.taken == ["a", "b"]


async def test_an_index_that_went_backwards_is_dropped_and_no_update_lost(
    autojump_clock: MockClock,
) -> None:
    server = Catalog(("50", "a"), ("3", "b"), ("4", "c"))
    await server.run()
    assert server.asked == [0, 50, 0, 4]
    assert server.taken == ["a", "b", "c"]


@pytest.mark.parametrize(
    "fault",
    [
        ACLPermissionDenied("403"),
        ClientError("429 too many"),
        ConsulException("500 No cluster leader"),
        OSError("refused"),
        MalformedAnswer("truncated"),
    ],
)
async def test_after_a_fault_the_state_is_read_without_waiting(
    fault: Exception, autojump_clock: MockClock
) -> None:
    server = Catalog(("5", "a"), fault, ("6", "b"))
    await server.run()
    assert server.asked == [0, 5, 0, 6]
    assert server.failed == [fault]


async def test_faults_without_end_are_asked_ever_less(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    server = Catalog(*(OSError("refused") for _ in range(20)))
    await server.run()
    assert trio.current_time() - start > 14 * LONGEST / 2


async def test_a_malformed_answer_counts_as_a_fault(autojump_clock: MockClock) -> None:
    def take(answer: Any) -> None:
        if answer == "bad":
            raise MalformedAnswer("bad")
        server.taken.append(answer)

    server = Catalog(("5", "a"), ("6", "bad"), ("6", "b"))
    await server.run(take)
    assert server.asked == [0, 5, 0, 6]


async def test_a_catalog_that_changes_all_the_time_costs_no_busy_loop(
    autojump_clock: MockClock,
) -> None:
    start = trio.current_time()
    server = Catalog(*((str(n), n) for n in range(1, 10_001)))
    await server.run()
    assert trio.current_time() - start >= 9_999 * PACE
    assert server.taken[-1] == 10_000


class Restarted:
    """Blocks as Consul does, and counts from 1 again at `restart`, which breaks no query."""

    def __init__(self) -> None:
        self.index = 50
        self.waits: list[float] = []
        self.seen: list[int] = []
        self.changed = trio.Event()

    async def ask(self, index: int, wait: float) -> tuple[Any, Any]:
        self.waits.append(wait if index else 0.0)
        with trio.move_on_after(self.waits[-1]):
            while self.index <= index:
                await self.changed.wait()
        return str(self.index), self.index

    def take(self, answer: int) -> None:
        self.seen.append(answer)

    def change(self, index: int) -> None:
        self.index = index
        self.changed.set()
        self.changed = trio.Event()


def no_fault(fault: Exception) -> None:
    raise fault


async def test_an_agent_exchanged_in_the_pause_is_found_out_soon(
    autojump_clock: MockClock,
) -> None:
    """Nothing broke, and the index that is waited for is one that the new agent has not got."""
    agent = Restarted()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, agent.ask, agent.take, no_fault, Backoff())
        await trio.sleep(PACE / 2)
        assert agent.seen == [50]
        agent.index = 3
        await trio.sleep(PACE)
        agent.change(4)
        await trio.sleep(DOUBT + PACE)
        assert agent.seen[-1] == 4
        agent.change(5)
        await trio.sleep(2 * PACE)
        assert agent.seen[-1] == 5
        nursery.cancel_scope.cancel()


async def test_a_catalog_that_stays_as_it_is_is_asked_once_a_wait(
    autojump_clock: MockClock,
) -> None:
    agent = Restarted()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, agent.ask, agent.take, no_fault, Backoff())
        await trio.sleep(PACE + DOUBT + 3.5 * WAIT)
        assert agent.waits == [0.0, DOUBT, WAIT, WAIT, WAIT, WAIT]
        agent.change(51)  # after a wait, not a pause: the next question is sent at once
        await trio.sleep(PACE / 2)
        assert (agent.seen[-1], agent.waits[-1]) == (51, WAIT)
        nursery.cancel_scope.cancel()
