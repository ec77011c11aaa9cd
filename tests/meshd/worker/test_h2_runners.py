"""Fibers that serve one stream after another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from meshd.worker.fiber import Cancelled, Fiber
from meshd.worker.loop import DeadlineExceeded
from meshd.worker.runners import MOST, Runners


class Work:
    """An exchange, as far as a runner knows one."""

    fiber: Fiber

    def __init__(self, serve: Callable[[], Awaitable[None]]) -> None:
        self.serve = serve


def work(world: Any, runners: Runners, serve: Callable[[], Awaitable[None]]) -> Any:
    one = Work(serve)
    runners.run(one)  # type: ignore[arg-type]
    return one


async def nothing() -> None:
    pass


def test_a_fiber_is_used_again(world: Any) -> None:
    runners = Runners(world.loop)
    first = work(world, runners, nothing)
    world.loop.turn()
    second = work(world, runners, nothing)
    third = work(world, runners, nothing)
    world.loop.turn()
    assert first.fiber is second.fiber is not third.fiber
    assert len(world.loop.fibers) == 2


def test_a_deadline_ends_with_its_exchange(world: Any) -> None:
    runners = Runners(world.loop)
    late: list[float] = []

    async def soon() -> None:
        fiber = world.loop.current
        fiber.expires = world.loop.now + 1.0
        world.loop.arm(fiber)

    async def long() -> None:
        try:
            await world.loop.sleep(5.0)
        except DeadlineExceeded:
            late.append(world.loop.now)

    work(world, runners, soon)
    world.loop.turn()
    fiber = work(world, runners, long).fiber
    world.finish(world.loop.spawn(world.loop.sleep(6.0)))
    assert not late and fiber.expires == 0.0


def test_a_cancelled_one_ends(world: Any) -> None:
    runners = Runners(world.loop)

    async def waits() -> None:
        try:
            await world.loop.sleep(100.0)
        except Cancelled:
            pass

    one = work(world, runners, waits)
    world.loop.turn()
    one.fiber.cancel()
    world.loop.turn()
    assert one.fiber.done
    other = work(world, runners, nothing)
    world.loop.turn()
    assert other.fiber is not one.fiber and not other.fiber.done


def test_a_mistake_ends_one_fiber(world: Any) -> None:
    runners = Runners(world.loop)

    async def wrong() -> None:
        raise ValueError("a mistake")

    one = work(world, runners, wrong)
    world.loop.turn()
    assert one.fiber.done and len(world.errors) == 1
    work(world, runners, nothing)
    world.loop.turn()
    assert len(world.loop.fibers) == 1


def test_those_that_nobody_needs_go(world: Any) -> None:
    runners = Runners(world.loop)
    for _ in range(MOST + 10):
        work(world, runners, nothing)
    world.finish(world.loop.spawn(world.loop.sleep(1.0)))
    assert len(world.loop.fibers) == MOST
    for _ in range(20):
        runners.sweep()
        world.finish(world.loop.spawn(world.loop.sleep(1.0)))
    assert not world.loop.fibers


def test_a_loop_that_stops_ends_them(world: Any) -> None:
    runners = Runners(world.loop)
    work(world, runners, nothing)
    world.loop.turn()
    world.loop.stop()
    world.loop.run()
    assert not world.loop.fibers
