"""The heap's arithmetic: one live entry a fiber, and stale ones swept."""

from __future__ import annotations

import random

from meshd.worker.fiber import Fiber
from meshd.worker.timers import SWEEP_OVER, Timer, Timers


async def _nothing() -> None:
    return None


def _fiber(world) -> Fiber:
    coro = _nothing()
    coro.close()
    return Fiber(world.loop, coro, "")


def test_moving_a_deadline_later_pushes_nothing(world):
    timers, fiber = Timers(), _fiber(world)
    for when in (10.0, 11.0, 12.0, 500.0):
        fiber.expires = when
        timers.arm(fiber)
    assert len(timers) == 1
    assert timers.due(10.0) == [] and timers.next == 500.0
    assert timers.due(500.0) == [fiber] and timers.next == float("inf")


def test_the_heap_stays_in_proportion_whatever_is_done(world):
    timers = Timers()
    fibers = [_fiber(world) for _ in range(20)]
    rng = random.Random(7)
    for _ in range(5000):
        fiber = rng.choice(fibers)
        fiber.expires = rng.uniform(1, 1000)
        timers.arm(fiber)
        timers.call_at(rng.uniform(1, 1000), print, ()).cancel()
        assert len(timers) <= 2 * len(fibers) + 2 * SWEEP_OVER
    alive = {fiber for fiber in fibers if fiber.expires}
    while timers.next < float("inf"):
        for target in timers.due(timers.next):
            assert not isinstance(target, Timer)
            alive.discard(target)
            target.expires = 0.0
    assert alive == set()
    assert timers.stale == 0


def test_nothing_fires_early_or_is_forgotten(world):
    timers = Timers()
    fibers = [_fiber(world) for _ in range(30)]
    rng = random.Random(11)
    now = 0.0
    for _ in range(3000):
        fiber = rng.choice(fibers)
        fiber.expires = rng.choice((0.0, now + rng.uniform(0.1, 20)))
        timers.arm(fiber)
        now += rng.uniform(0, 0.2)
        due = timers.due(now)
        for target in due:
            assert isinstance(target, Fiber) and 0 < target.expires <= now
            target.expires = 0.0
        assert not [fiber for fiber in fibers if 0 < fiber.expires <= now]
