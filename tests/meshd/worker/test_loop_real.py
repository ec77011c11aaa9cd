"""The loop on the kernel's epoll, clock and signals."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from meshd.worker.loop import Loop
from meshd.worker.stream import Stream


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_sleep_lasts_at_least_so_long(loop):
    started = time.monotonic()
    loop.run_until_done(loop.sleep(0.02))
    assert time.monotonic() - started >= 0.02


def test_a_signal_handler_gets_into_a_loop_that_waits_for_ever(loop):
    async def idle() -> None:
        await loop.park()

    fiber = loop.spawn(idle())
    before = signal.signal(signal.SIGALRM, lambda *_: loop.call_soon(loop.stop))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        loop.run()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert fiber.done


def test_another_thread_gets_in_too(loop):
    timer = threading.Timer(0.02, loop.stop)
    timer.start()
    loop.run()
    timer.join()


def test_a_reused_descriptor_number_belongs_to_its_new_owner(loop):
    """Close a stream that has unread bytes and an event under way; take its number at once."""

    async def body() -> None:
        left, right = socket.socketpair()
        old = Stream(loop, left)
        number = old.fd
        right.send(b"for the old one")
        loop.call_soon(int)  # the event is there at the next poll
        old.close()
        fresh_left, fresh_right = socket.socketpair()
        assert number in (fresh_left.fileno(), fresh_right.fileno())
        mine, other = (
            (fresh_left, fresh_right)
            if fresh_left.fileno() == number
            else (fresh_right, fresh_left)
        )
        new = Stream(loop, mine)
        assert new.try_recv() is None
        await loop.sleep(0.01)
        assert not new.readable
        other.send(b"for the new one")
        assert await new.recv() == b"for the new one"
        new.close()
        for sock in (right, other):
            sock.close()

    loop.run_until_done(body())


def test_unregister_after_the_descriptor_is_gone_is_harmless(loop):
    left, right = socket.socketpair()
    stream = Stream(loop, left)
    os.close(left.detach())
    loop.unregister(stream.fd)
    right.close()
