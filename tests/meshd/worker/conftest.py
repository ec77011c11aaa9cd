"""Virtual time for the loop: a clock that only waiting moves, and a poller that tests feed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from meshd.worker.loop import Fiber, Loop


class FakePoller:
    """Events come from `feed`; a wait for nothing moves the clock to its end."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.batches: list[list[tuple[int, int]]] = []
        self.registered: dict[int, int] = {}

    def register(self, fd: int, eventmask: int) -> None:
        assert fd not in self.registered
        self.registered[fd] = eventmask

    def unregister(self, fd: int) -> None:
        del self.registered[fd]

    def poll(self, timeout: float | None, maxevents: int) -> list[tuple[int, int]]:
        if self.batches:
            batch = self.batches.pop(0)
            assert len(batch) <= maxevents
            return batch
        assert timeout is not None, "every fiber is parked and nothing is due: a lost wake-up"
        self.now += timeout
        return []


class World:
    """A loop in virtual time."""

    def __init__(self) -> None:
        self.poller = FakePoller()
        self.loop = Loop(clock=lambda: self.poller.now, poller=self.poller)
        self.errors: list[tuple[Fiber | None, BaseException]] = []
        self.loop.on_error = lambda fiber, exc: self.errors.append((fiber, exc))

    @property
    def elapsed(self) -> float:
        return self.poller.now - 1000.0

    def feed(self, *events: tuple[int, int]) -> None:
        """One batch, for the next poll."""
        self.poller.batches.append(list(events))

    def start(self, coro: Coroutine[Any, Any, Any]) -> Fiber:
        """Spawn, and run until it waits (or ends)."""
        fiber = self.loop.spawn(coro)
        self.loop.turn()
        return fiber

    def finish(self, fiber: Fiber) -> Any:
        while not fiber.done:
            self.loop.turn()
        if fiber.exception is not None:
            raise fiber.exception
        return fiber.result

    def later(self, seconds: float, fn: Callable[..., object], *args: Any) -> None:
        self.loop.call_later(seconds, fn, *args)


@pytest.fixture
def world() -> World:
    return World()
