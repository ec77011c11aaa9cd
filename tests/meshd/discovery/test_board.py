from __future__ import annotations

import trio
import trio.testing

from meshd.discovery.base import Instance
from meshd.discovery.board import Board
from meshd.discovery.view import Answer, HoldRules
from meshkit.names import ServiceName

REVIEWS = ServiceName("default", "reviews")
ONE = Answer((Instance(REVIEWS, "a", "vm1", "10.0.0.1", 9080, "HTTP"),))


async def test_changed_returns_once_a_change(autojump_clock: trio.testing.MockClock) -> None:
    board = Board(clock=trio.current_time)
    board.publish(connected=True, error="")
    await board.changed()
    with trio.move_on_after(10) as scope:
        await board.changed()
    assert scope.cancelled_caught
    board.publish(connected=True)
    with trio.move_on_after(10) as scope:
        await board.changed()
    assert scope.cancelled_caught


async def test_a_change_before_the_wait_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    board = Board(clock=trio.current_time)
    board.keeper.answer(REVIEWS, ONE, 0.0)
    board.publish()
    with trio.fail_after(10):
        await board.changed()
    assert REVIEWS in board.view.instances


async def test_the_hold_ends_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    board = Board(HoldRules(60.0), clock=trio.current_time)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(board.run_holds)
        await trio.testing.wait_all_tasks_blocked()
        board.keeper.answer(REVIEWS, ONE, trio.current_time())
        board.keeper.answer(REVIEWS, Answer(), trio.current_time())
        board.publish(connected=True, error="")
        before = board.view
        assert len(before.held) == 1
        await board.changed()
        await board.changed()
        assert trio.current_time() - start == 60.0
        after = board.view
        assert after.instances == {}
        assert after.held == ()
        nursery.cancel_scope.cancel()
