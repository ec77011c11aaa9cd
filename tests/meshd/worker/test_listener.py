"""Accepting against a scripted socket, in virtual time."""

from __future__ import annotations

import errno
import select
import socket
from typing import Any

import pytest

from meshd.worker.edges import StreamClosed
from meshd.worker.listener import ACCEPTS_A_TURN, PAUSE_SECONDS, Listener

AGAIN = BlockingIOError(errno.EAGAIN, "again")
PEER = ("192.0.2.1", 1)


class Accepted:
    def setblocking(self, flag: bool) -> None:
        assert not flag


class FakeListening:
    family = socket.AF_UNIX

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def fileno(self) -> int:
        return 5

    def accept(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer, PEER


def _listener(world, *answers: Any) -> Listener:
    return Listener(world.loop, FakeListening(*answers))  # type: ignore[arg-type]


async def _take(listener: Listener, count: int, turns: list[int]) -> None:
    for _ in range(count):
        await listener.accept()
        turns.append(listener.loop.turns)


def test_one_edge_stands_for_many_connections(world):
    listener = _listener(world, AGAIN, Accepted(), Accepted(), AGAIN)
    turns: list[int] = []
    fiber = world.start(_take(listener, 2, turns))
    assert turns == []
    world.feed((5, select.EPOLLIN))
    world.finish(fiber)
    assert listener.accepted == 2


def test_a_flood_gives_up_the_turn(world):
    count = ACCEPTS_A_TURN + 5
    listener = _listener(world, *[Accepted()] * count)
    turns: list[int] = []
    world.finish(world.loop.spawn(_take(listener, count, turns)))
    assert [turns.count(turn) for turn in sorted(set(turns))] == [ACCEPTS_A_TURN, 5]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_exhaustion_pauses_is_counted_and_needs_no_edge(world, code):
    error = OSError(code, "exhausted")
    listener = _listener(world, error, error, Accepted())
    world.finish(world.loop.spawn(listener.accept()))
    assert listener.exhausted == 2
    assert world.elapsed == pytest.approx(2 * PAUSE_SECONDS)


def test_a_connection_that_died_in_the_queue_is_passed_over(world):
    listener = _listener(world, ConnectionAbortedError(errno.ECONNABORTED, ""), Accepted())
    world.finish(world.loop.spawn(listener.accept()))
    assert world.elapsed == 0


def test_another_error_is_raised(world):
    listener = _listener(world, OSError(errno.EINVAL, "not listening"))
    with pytest.raises(OSError, match="not listening"):
        world.finish(world.loop.spawn(listener.accept()))


def test_close_wakes_the_acceptor(world):
    listener = _listener(world, AGAIN)
    fiber = world.start(listener.accept())
    listener.close()
    listener.close()
    with pytest.raises(StreamClosed):
        world.finish(fiber)
    assert world.poller.registered == {}
