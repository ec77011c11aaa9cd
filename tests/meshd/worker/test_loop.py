"""The loop's promises, in virtual time."""

from __future__ import annotations

import select
from typing import Any

import pytest

from meshd.worker.loop import STEPS_A_TURN, Cancelled, DeadlineExceeded, Fiber, Loop

IN = select.EPOLLIN


class Bell:
    """The smallest correct source: a sticky bit and one waiter."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.rung = False
        self.masks: list[int] = []
        self.waiter: Fiber | None = None

    def on_events(self, mask: int) -> None:
        self.masks.append(mask)
        self.rung = True
        if self.waiter is not None:
            self.loop.unpark(self.waiter)

    async def wait(self) -> None:
        while not self.rung:
            self.waiter = self.loop.current
            try:
                await self.loop.park()
            finally:
                self.waiter = None
        self.rung = False


def test_a_fiber_returns_its_result(world):
    async def body() -> int:
        await world.loop.sleep(2)
        return 7

    assert world.finish(world.loop.spawn(body())) == 7
    assert world.elapsed == 2
    assert not world.loop.fibers


def test_spawn_runs_nothing_yet_and_not_inside_the_spawner(world):
    steps: list[str] = []

    async def child() -> None:
        steps.append("child")

    async def parent() -> None:
        world.loop.spawn(child())
        steps.append("parent")

    world.loop.spawn(parent())
    assert steps == []
    world.loop.turn()
    assert steps == ["parent", "child"]


# Deadlines


async def _wait_for_ever(loop: Loop) -> None:
    await loop.park()


def _arm(loop: Loop, fiber: Fiber, seconds: float) -> None:
    fiber.expires = loop.now + seconds
    loop.arm(fiber)


def test_a_deadline_raises_at_the_wait_and_is_gone(world):
    async def body() -> float:
        me = world.loop.current
        _arm(world.loop, me, 3)
        with pytest.raises(DeadlineExceeded):
            await world.loop.park()
        assert me.expires == 0
        await world.loop.sleep(10)
        return world.elapsed

    assert world.finish(world.loop.spawn(body())) == 13


def test_a_deadline_moved_later_fires_only_then(world):
    async def body() -> float:
        me = world.loop.current
        _arm(world.loop, me, 1)
        await world.loop.sleep(0.5)
        _arm(world.loop, me, 5)
        with pytest.raises(DeadlineExceeded):
            await world.loop.park()
        return world.elapsed

    assert world.finish(world.loop.spawn(body())) == 5.5


def test_a_deadline_moved_earlier_fires_then_and_once(world):
    async def body() -> float:
        me = world.loop.current
        _arm(world.loop, me, 9)
        _arm(world.loop, me, 2)
        with pytest.raises(DeadlineExceeded):
            await world.loop.park()
        await world.loop.sleep(20)
        return world.elapsed

    assert world.finish(world.loop.spawn(body())) == 22


def test_a_deadline_taken_back_does_not_fire(world):
    async def body() -> float:
        me = world.loop.current
        _arm(world.loop, me, 1)
        me.expires = 0.0
        await world.loop.sleep(4)
        return world.elapsed

    assert world.finish(world.loop.spawn(body())) == 4


def test_a_deadline_passed_while_queued_gives_the_value_first(world):
    seen: list[Any] = []

    async def body() -> None:
        _arm(world.loop, world.loop.current, 1)
        seen.append(await world.loop.park())
        with pytest.raises(DeadlineExceeded):
            await world.loop.park()
        seen.append("expired")

    fiber = world.start(body())
    world.later(0.5, world.loop.unpark, fiber, "value")  # due in the same turn as the deadline
    world.poller.now += 5
    world.finish(fiber)
    assert seen == ["value", "expired"]


def test_a_passed_deadline_also_stops_a_fiber_that_only_yields(world):
    async def body() -> None:
        _arm(world.loop, world.loop.current, 1)
        while True:
            world.poller.now += 0.3
            await world.loop.yield_turn()

    with pytest.raises(DeadlineExceeded):
        world.finish(world.loop.spawn(body()))


def test_sleeping_across_a_deadline_raises_and_leaves_no_timer(world):
    async def body() -> None:
        _arm(world.loop, world.loop.current, 1)
        await world.loop.sleep(5)

    with pytest.raises(DeadlineExceeded):
        world.finish(world.loop.spawn(body()))
    assert world.elapsed == 1


# Cancel


def test_cancel_raises_at_the_wait_and_at_every_later_one(world):
    caught: list[str] = []

    async def body() -> None:
        for _ in range(3):
            try:
                await world.loop.park()
            except Cancelled:
                caught.append("again")
        await world.loop.sleep(1)

    fiber = world.start(body())
    fiber.cancel()
    fiber.cancel()
    world.loop.turn()
    assert caught == ["again"] * 3
    assert fiber.done and isinstance(fiber.exception, Cancelled)
    assert world.errors == []  # ending by Cancelled is no error


def test_a_cancelled_fiber_that_was_handed_something_gets_it_first(world):
    got: list[Any] = []

    async def body() -> None:
        got.append(await world.loop.park())
        await world.loop.park()

    fiber = world.start(body())
    assert world.loop.unpark(fiber, "connection")
    fiber.cancel()
    world.loop.turn()
    assert got == ["connection"] and isinstance(fiber.exception, Cancelled)


def test_what_cannot_be_handed_over_stays_with_the_giver(world):
    fiber = world.start(_wait_for_ever(world.loop))
    fiber.cancel()
    assert not world.loop.unpark(fiber, "connection")
    world.loop.turn()
    assert not world.loop.unpark(fiber, "connection")


def test_cancel_before_the_first_step_still_runs_the_cleanup(world):
    cleaned: list[bool] = []

    async def body() -> None:
        try:
            await world.loop.park()
        finally:
            cleaned.append(True)

    fiber = world.loop.spawn(body())
    fiber.cancel()
    world.loop.turn()
    assert cleaned == [True] and fiber.done


def test_a_fiber_may_cancel_itself(world):
    async def body() -> None:
        world.loop.current.cancel()
        await world.loop.yield_turn()

    fiber = world.start(body())
    assert isinstance(fiber.exception, Cancelled)


def test_cancel_while_it_has_given_up_its_turn(world):
    async def body() -> None:
        while True:
            await world.loop.yield_turn()

    fiber = world.start(body())
    fiber.cancel()
    world.loop.turn()
    assert isinstance(fiber.exception, Cancelled)


# Events


def test_fibers_woken_in_one_turn_run_in_event_order(world):
    order: list[int] = []
    bells = {fd: Bell(world.loop) for fd in (3, 4, 5)}

    async def body(fd: int) -> None:
        await bells[fd].wait()
        order.append(fd)

    for fd, bell in bells.items():
        world.loop.register(fd, bell)
        world.start(body(fd))
    world.feed((5, IN), (3, IN), (4, IN))
    world.loop.turn()
    assert order == [5, 3, 4]


def test_an_event_before_the_wait_is_not_lost(world):
    bell = Bell(world.loop)
    world.loop.register(3, bell)
    world.feed((3, IN))
    world.loop.turn()
    fiber = world.start(bell.wait())
    assert fiber.done


def test_an_event_for_nobody_is_dropped(world):
    world.feed((99, IN))
    world.loop.turn()
    assert world.errors == []


def test_a_stale_event_does_not_reach_the_new_owner_of_a_descriptor(world):
    loop = world.loop
    new = Bell(loop)

    class Replaces(Bell):
        def on_events(self, mask: int) -> None:
            loop.unregister(4)
            loop.register(4, new)

    loop.register(3, Replaces(loop))
    loop.register(4, Bell(loop))
    world.feed((3, IN), (4, IN))
    loop.turn()
    assert new.masks == []
    world.feed((4, IN))
    loop.turn()
    assert new.masks == [IN]


def test_an_event_for_a_descriptor_closed_in_the_same_batch_is_dropped(world):
    loop = world.loop
    old = Bell(loop)

    class Closes(Bell):
        def on_events(self, mask: int) -> None:
            loop.unregister(4)

    loop.register(3, Closes(loop))
    loop.register(4, old)
    world.feed((3, IN), (4, IN))
    loop.turn()
    assert old.masks == [] and 4 not in world.poller.registered


def test_a_source_that_fails_does_not_take_the_batch_with_it(world):
    class Fails(Bell):
        def on_events(self, mask: int) -> None:
            raise ValueError("broken source")

    bell = Bell(world.loop)
    world.loop.register(3, Fails(world.loop))
    world.loop.register(4, bell)
    world.feed((3, IN), (4, IN))
    world.loop.turn()
    assert bell.masks == [IN]
    assert [str(exc) for _, exc in world.errors] == ["broken source"]


# Fairness


def test_who_yields_comes_behind_who_was_woken(world):
    order: list[str] = []
    bell = Bell(world.loop)
    world.loop.register(3, bell)

    async def greedy() -> None:
        for _ in range(3):
            order.append("greedy")
            await world.loop.yield_turn()

    async def woken() -> None:
        await bell.wait()
        order.append("woken")

    world.start(woken())
    world.start(greedy())
    world.feed((3, IN))
    world.loop.turn()
    assert order == ["greedy", "woken", "greedy"]


def test_two_fibers_that_wake_each_other_do_not_keep_the_loop_from_polling(world):
    fibers: list[Fiber] = []
    steps = 0

    async def ping(other: int) -> None:
        nonlocal steps
        while True:
            steps += 1
            if len(fibers) == 2:
                world.loop.unpark(fibers[other])
            await world.loop.park()

    fibers.append(world.start(ping(1)))
    fibers.append(world.start(ping(0)))
    world.loop.unpark(fibers[0])
    steps = 0
    world.loop.turn()
    assert steps == STEPS_A_TURN


# Ends and errors


def test_join_waits_for_the_end_and_does_not_raise_it(world):
    async def fails() -> None:
        await world.loop.sleep(1)
        raise ValueError("bad")

    child = world.loop.spawn(fails(), "child")

    async def waits() -> str:
        await child.join()
        await child.join()  # at once
        return str(child.exception)

    joiners = [world.loop.spawn(waits()), world.loop.spawn(waits())]
    assert [world.finish(joiner) for joiner in joiners] == ["bad", "bad"]
    assert [(fiber, str(exc)) for fiber, exc in world.errors] == [(child, "bad")]
    assert world.loop.errors == 1


def test_an_error_of_one_fiber_is_nobody_elses(world):
    async def fails() -> None:
        raise ValueError("bad")

    world.start(fails())

    async def lives() -> int:
        return 1

    assert world.finish(world.loop.spawn(lives())) == 1


def test_an_error_handler_that_fails_does_not_stop_the_loop(world):
    def broken(_fiber: Fiber | None, _exc: BaseException) -> None:
        raise RuntimeError("handler")

    world.loop.on_error = broken

    async def fails() -> None:
        raise ValueError("bad")

    assert world.start(fails()).done


def test_an_exit_leaves_the_loop(world):
    async def exits() -> None:
        raise SystemExit(3)

    world.loop.spawn(exits())
    with pytest.raises(SystemExit):
        world.loop.turn()


def test_stop_cancels_every_fiber_and_runs_its_cleanup(world):
    ended: list[str] = []

    async def cleans(name: str) -> None:
        try:
            await world.loop.park()
        finally:
            world.loop.spawn(late(name))

    async def late(name: str) -> None:
        try:
            await world.loop.sleep(60)
        finally:
            ended.append(name)

    world.start(cleans("a"))
    world.start(cleans("b"))
    world.later(5, world.loop.stop)
    world.loop.run()
    assert sorted(ended) == ["a", "b"]
    assert world.elapsed == 5
    assert not world.loop.fibers


def test_stop_gives_up_on_a_fiber_that_swallows_cancelled(world, monkeypatch):
    monkeypatch.setattr("meshd.worker.loop.LAST_STEPS", 10)

    async def stubborn() -> None:
        while True:
            try:
                await world.loop.yield_turn()
            except Cancelled:
                world.loop._yielded.append(world.loop.current)
                await _RawYield()

    fiber = world.start(stubborn())
    world.loop.stop()
    world.loop.run()
    assert fiber.done and "did not end" in str(fiber.exception)
    fiber.coro.close()


class _RawYield:
    def __await__(self):
        yield


# Callbacks


def test_callbacks_come_in_time_order_and_can_be_cancelled(world):
    calls: list[str] = []
    world.later(2, calls.append, "second")
    world.later(1, calls.append, "first")
    gone = world.loop.call_later(1.5, calls.append, "never")
    gone.cancel()

    async def body() -> None:
        await world.loop.sleep(3)

    world.finish(world.loop.spawn(body()))
    assert calls == ["first", "second"]


def test_a_callback_that_sets_itself_again_at_once_does_not_starve_the_turn(world):
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        world.later(0, again)

    world.later(0, again)
    world.loop.turn()
    assert count == 1
    world.loop.turn()
    assert count == 2


def test_a_callback_may_cancel_another_of_the_same_turn(world):
    calls: list[str] = []
    second = None

    def first() -> None:
        assert second is not None
        second.cancel()

    world.later(1, first)
    second = world.loop.call_later(1, calls.append, "second")
    world.poller.now += 1
    world.loop.turn()
    assert calls == []


def test_a_callback_that_fails_is_reported(world):
    world.later(0, lambda: 1 / 0)
    world.loop.turn()
    assert isinstance(world.errors[0][1], ZeroDivisionError)


def test_call_soon_runs_in_the_next_turn_without_a_wait(world):
    calls: list[int] = []
    world.loop.call_soon(calls.append, 1)
    world.loop.turn()
    assert calls == [1] and world.elapsed == 0


def test_lag_is_the_longest_turn_since_asked(world):
    def slow(seconds: float) -> None:
        world.poller.now += seconds

    for seconds in (0.25, 0.5, 0.125):
        world.later(0, slow, seconds)
        world.loop.turn()
    assert world.loop.take_lag() == 0.5
    assert world.loop.take_lag() == 0


class Gathered:
    """Flushed by the loop; `again` times it becomes dirty while it is flushed."""

    def __init__(self, world: Any, again: int = 0) -> None:
        self.world = world
        self.again = again
        self.turns: list[int] = []

    def flush(self) -> None:
        self.turns.append(self.world.loop.turns)
        if len(self.turns) <= self.again:
            self.world.loop.dirty.append(self)


def test_what_is_dirty_is_flushed_after_the_fibers_of_the_turn(world: Any) -> None:
    gathered = Gathered(world)
    order: list[str] = []

    async def write(name: str) -> None:
        if not world.loop.dirty:
            world.loop.dirty.append(gathered)
        order.append(f"{name} before {len(gathered.turns)}")

    for name in "abc":
        world.loop.spawn(write(name))
    world.loop.turn()
    assert order == ["a before 0", "b before 0", "c before 0"] and gathered.turns == [1]


def test_what_becomes_dirty_in_a_flush_waits_for_the_next_turn(world: Any) -> None:
    gathered = Gathered(world, again=2)
    world.loop.dirty.append(gathered)
    for _ in range(3):
        world.loop.turn()
    assert gathered.turns == [1, 2, 3] and world.elapsed == 0.0


def test_a_flush_that_fails_is_reported_and_spares_the_others(world: Any) -> None:
    class Broken:
        def flush(self) -> None:
            raise ValueError("a mistake")

    gathered = Gathered(world)
    world.loop.dirty += [Broken(), gathered]
    world.loop.turn()
    assert gathered.turns and len(world.errors) == 1
