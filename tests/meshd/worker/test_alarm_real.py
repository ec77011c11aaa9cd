"""The loop on a real epoll: timers come by the alarm, on time and all of them."""

from __future__ import annotations

import time

from meshd.worker.alarm import Alarm
from meshd.worker.loop import DeadlineExceeded, Loop


def test_timers_set_earlier_and_later_all_come_in_order() -> None:
    loop = Loop()
    came: list[tuple[str, float]] = []
    began = time.monotonic()

    async def run() -> None:
        for name, after in (("c", 0.09), ("a", 0.03), ("b", 0.06)):
            loop.call_later(after, lambda n=name: came.append((n, time.monotonic() - began)))
        await loop.sleep(0.12)
        loop.call_later(0.02, lambda: came.append(("d", time.monotonic() - began)))
        await loop.sleep(0.05)

    loop.run_until_done(run())
    loop.close()
    assert [name for name, _ in came] == ["a", "b", "c", "d"]
    for (_, at), due in zip(came, (0.03, 0.06, 0.09, 0.14), strict=True):
        assert due <= at < due + 1.0


def test_a_deadline_comes_while_nothing_else_happens() -> None:
    loop = Loop()

    async def run() -> bool:
        loop.current.expires = loop.now + 0.05
        loop.arm(loop.current)
        try:
            await loop.park()
        except DeadlineExceeded:
            return True
        return False

    assert loop.run_until_done(run())
    loop.close()


def test_a_time_that_is_past_rings_at_once() -> None:
    alarm = Alarm()
    alarm.set(time.monotonic() - 1.0)
    loop = Loop()
    loop.register(alarm.fd, alarm)
    loop.call_later(0.2, lambda: None)
    loop.turn()
    loop.turn()
    assert alarm.when == float("inf")
    loop.unregister(alarm.fd)
    alarm.close()
    loop.close()
