"""The worker's event loop: plain coroutines ("fibers") resumed directly from epoll.

Theory
======
A general scheduler spends about 10 us on each wait; a proxy waits several times a request. This
loop does only what a proxy needs, for about 1 us: wait for a descriptor, sleep, a deadline that
raises inside the fiber, spawn, cancel, park and unpark. It has one thread, and a fiber runs until
it waits, so between two waits nothing else changes the state it looks at.

One turn: poll -> hand every event of the batch to its source -> fire due timers -> queue the
fibers that gave up the last turn -> run the ready queue, first come first served -> flush what
became dirty (`dirty`: connections that many fibers write to send once a turn). Hence:

* Events first, fibers after. A source's `on_events` only sets bits and unparks; no fiber runs
  while events are handed out, so none can close a descriptor in the middle of a batch. Should a
  source do it all the same, a descriptor registered since the poll ignores the rest of that batch
  (`_fresh`): those events were its predecessor's, and registering makes an edge of its own.
* Fibers woken in one turn run in the order of their events. Those that gave up their turn
  (`yield_turn`) come behind them, and a turn runs at most STEPS_A_TURN steps, so neither a fiber
  that always finds work nor two that wake each other can keep the loop from polling.
* Descriptors are registered once, edge-triggered. An edge is reported once, whoever waits or does
  not; remembering it is the source's business (edges.py keeps sticky bits).

A fiber is in exactly one state: parked (only here can it be woken), queued, running, or done.

* `unpark` of a fiber that is not parked does nothing and says so (False): whoever wanted to hand
  it something still has it. No value is lost, none delivered twice. There is no stored permit: a
  fiber looks at the state it waits for, then parks, and nothing can come between the two.
* `cancel` and a passed deadline throw into a parked fiber. A fiber that was already queued gets
  what it was woken with first, and the exception at its next wait. Cancelled is level-triggered:
  from then on every wait raises it, so a cancelled fiber cannot hang. DeadlineExceeded is raised
  once and resets `expires` to 0, so that the fiber can still answer and clean up (timers.py).
* A fiber that was cancelled before its first step still starts: its `finally` owns resources.

Time is `clock`, readiness is `poller`: with fakes for both, tests run in virtual time.
"""

from __future__ import annotations

import errno
import logging
import select
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from math import inf
from types import coroutine
from typing import Any, Protocol

from meshd.worker.alarm import Alarm
from meshd.worker.fiber import Cancelled, DeadlineExceeded, Fiber
from meshd.worker.timers import Timer, Timers
from meshd.worker.waker import Waker

__all__ = ["Cancelled", "DeadlineExceeded", "Fiber", "Loop", "Poller", "Source", "Timer"]

EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
MAX_EVENTS = 80  # one poll's batch: its buffer (12 bytes an event) then fits malloc's thread cache
STEPS_A_TURN = 512  # for the same reason; what is left keeps its place in the queue
LAST_STEPS = 100_000  # of fibers that swallow Cancelled, before `run` gives them up

_log = logging.getLogger(__name__)


class Source(Protocol):
    """What is registered with a descriptor."""

    def on_events(self, mask: int) -> None:
        """Remember the edge and unpark who waits for it; nothing else."""


class Flushable(Protocol):
    """What gathers output while fibers run, and sends it once at the end of the turn."""

    def flush(self) -> None:
        """Send it; between fibers, so nothing that waits."""


class Poller(Protocol):
    """The part of `select.epoll` in use."""

    def register(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float | None, maxevents: int) -> list[tuple[int, int]]: ...


class Loop:
    """The loop. `now` is the clock's seconds, read once a turn; `current` the running fiber.

    For metrics: `fibers` (alive), `turns`, `errors` (exceptions that left a fiber or a callback),
    `take_lag()`.
    """

    __slots__ = (
        "_alarm",
        "_clock",
        "_fresh",
        "_lag",
        "_poller",
        "_ready",
        "_soon",
        "_sources",
        "_stopping",
        "_timers",
        "_waker",
        "_yielded",
        "arm",
        "current",
        "dirty",
        "errors",
        "fibers",
        "now",
        "on_error",
        "turns",
    )

    current: Fiber

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, poller: Poller | None = None
    ) -> None:
        self._clock = clock
        self.now = clock()
        self.turns = 0
        self.errors = 0
        self.fibers: dict[Fiber, None] = {}
        self.on_error: Callable[[Fiber | None, BaseException], None] = _log_error
        self._ready: deque[Fiber] = deque()
        self._yielded: list[Fiber] = []
        self.dirty: list[Flushable] = []
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers = Timers()
        self.arm = self._timers.arm  # makes `fiber.expires` hold; after each assignment but 0
        self._lag = 0.0
        self._stopping = False
        self._sources: dict[int, Source] = {}
        self._fresh: set[int] = set()
        self._poller: Poller = select.epoll() if poller is None else poller
        self._waker: Waker | None = None
        self._alarm: Alarm | None = None
        if poller is None:
            self._waker = Waker()
            self.register(self._waker.fd, self._waker)
        if poller is None and clock is time.monotonic:
            self._alarm = Alarm()
            self.register(self._alarm.fd, self._alarm)

    # Fibers

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str = "") -> Fiber:
        """Start a fiber; its first step is in this turn or the next, never inside this call."""
        fiber = Fiber(self, coro, name)
        fiber.cancelled = self._stopping
        self.fibers[fiber] = None
        self._ready.append(fiber)
        return fiber

    @coroutine
    def park(self) -> Generator[None, Any, Any]:
        """Wait for `unpark` and return its value.

        Whoever unparks must know that this very wait is what the fiber is in: put the fiber into
        a slot before, take it out on every way out.
        """
        self.about_to_park()
        return (yield)

    def about_to_park(self) -> Fiber:
        """For a wait made of a bare `yield`, which must come next: the current fiber, now parked.

        Raises what the wait would.
        """
        fiber = self.current
        if fiber.cancelled:
            raise Cancelled
        if 0.0 < fiber.expires <= self.now:
            fiber.expires = 0.0
            raise DeadlineExceeded
        fiber.parked = True
        return fiber

    def unpark(self, fiber: Fiber, value: Any = None) -> bool:
        """Queue a parked fiber; False, and nothing done, if it is not parked."""
        if not fiber.parked:
            return False
        fiber.parked = False
        fiber.value = value
        self._ready.append(fiber)
        return True

    @coroutine
    def yield_turn(self) -> Generator[None, Any, None]:
        """Let everyone else who is ready go first, and the loop poll."""
        fiber = self.current
        if fiber.cancelled:
            raise Cancelled
        if 0.0 < fiber.expires <= self.now:
            fiber.expires = 0.0
            raise DeadlineExceeded
        self._yielded.append(fiber)
        yield
        if fiber.cancelled:
            raise Cancelled

    async def sleep(self, seconds: float) -> None:
        """Wait at least so long on the loop's clock; 0 gives up the turn."""
        if seconds <= 0:
            await self.yield_turn()
            return
        timer = self.call_later(seconds, self.unpark, self.current)
        try:
            while timer.fn is not None:
                await self.park()
        finally:
            timer.cancel()

    def _throw(self, fiber: Fiber, exc: BaseException) -> None:
        fiber.parked = False
        fiber.throw = exc
        self._ready.append(fiber)

    # Timers

    def call_later(self, seconds: float, fn: Callable[..., object], *args: Any) -> Timer:
        """Call `fn(*args)` between fibers, for housekeeping; it must be short."""
        return self._timers.call_at(self.now + seconds, fn, args)

    def call_soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Call `fn(*args)` in the next turn. The one way in for signal handlers and threads."""
        self._soon.append((fn, args))
        self.wake()

    def _call_soon_ones(self) -> None:
        soon = self._soon
        for _ in range(len(soon)):
            fn, args = soon.popleft()
            try:
                fn(*args)
            except Exception as exc:
                self._report(None, exc)

    def _fire_timers(self) -> None:
        """Everything due, taken out before anything runs: a callback may set a timer of 0 s."""
        for target in self._timers.due(self.now):
            if isinstance(target, Timer):
                try:
                    target.fire()
                except Exception as exc:
                    self._report(None, exc)
            elif target.parked:
                target.expires = 0.0
                self._throw(target, DeadlineExceeded())
            # else queued: its next wait sees that `expires` has passed

    # Descriptors

    def register(self, fd: int, source: Source) -> None:
        """Send the edges of `fd` (EDGE, or its subset it has) to `source`, from now on.

        Whatever is ready already makes one edge. OSError as of epoll_ctl.
        """
        self._poller.register(fd, EDGE)
        self._sources[fd] = source
        self._fresh.add(fd)

    def unregister(self, fd: int) -> None:
        """Before closing `fd`; harmless when it is not registered."""
        if self._sources.pop(fd, None) is None:
            return
        try:
            self._poller.unregister(fd)
        except OSError as exc:
            if exc.errno not in (errno.EBADF, errno.ENOENT):
                raise

    # Running

    def run(self) -> None:
        """Turn until `stop`, then cancel every fiber and run all of them to their end."""
        while not self._stopping:
            self.turn()
        self._wind_down()

    def run_until_done(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Turn until this one is done; its result, or its exception raised."""
        fiber = self.spawn(coro)
        while not fiber.done:
            self.turn()
        if fiber.exception is not None:
            raise fiber.exception
        return fiber.result

    def stop(self) -> None:
        """End `run`. Signal handlers may call it."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Make a poll that waits return; safe in signal handlers and other threads."""
        if self._waker is not None:
            self._waker.wake()

    def close(self) -> None:
        """Give back the loop's own descriptors; after `run`."""
        if self._waker is not None:
            self.unregister(self._waker.fd)
            self._waker.close()
            self._waker = None
        if self._alarm is not None:
            self.unregister(self._alarm.fd)
            self._alarm.close()
            self._alarm = None
        if isinstance(self._poller, select.epoll):
            self._poller.close()

    def take_lag(self) -> float:
        """The longest turn, in seconds, since the last call: how late anybody was served."""
        lag, self._lag = self._lag, 0.0
        return lag

    def turn(self) -> None:
        """One turn, as described above; waits only when nothing is ready.

        The step is written out here and not a call: that is a tenth of what a wait costs.
        """
        ready = self._ready
        before = self._clock()
        if before - self.now > self._lag:  # how long the turn before this one was
            self._lag = before - self.now
        timeout: float | None = 0.0
        if not (ready or self._yielded or self._soon or self._stopping or self.dirty):
            timeout = self._patience(before)
        events = self._poller.poll(timeout, MAX_EVENTS)
        started = self.now = self._clock()
        self.turns += 1
        if events:
            self._hand_out(events)
        if self._soon:
            self._call_soon_ones()
        if self._timers.next <= started:
            self._fire_timers()
        if self._yielded:
            ready.extend(self._yielded)
            self._yielded.clear()
        steps = STEPS_A_TURN
        while ready and steps:
            steps -= 1
            self.current = fiber = ready.popleft()
            try:
                if fiber.throw is None:
                    value, fiber.value = fiber.value, None
                    fiber.coro.send(value)
                else:
                    exc, fiber.throw = fiber.throw, None
                    fiber.coro.throw(exc)
            except StopIteration as stop:
                self._finish(fiber, stop.value, None)
            except BaseException as failure:
                self._finish(fiber, None, failure)
        if self.dirty:
            self._flush()

    def _flush(self) -> None:
        """Once a turn, whoever wrote how often; what becomes dirty here waits for the next."""
        dirty, self.dirty = self.dirty, []
        for one in dirty:
            try:
                one.flush()
            except Exception as exc:
                self._report(None, exc)

    def _patience(self, now: float) -> float | None:
        """How long a poll may wait for the next timer; None where the alarm sees to it."""
        when, alarm = self._timers.next, self._alarm
        if alarm is not None:
            if alarm.when <= when:
                return None
            if when > now:
                alarm.set(when)
                return None
        return None if when == inf else max(0.0, when - now)

    def _hand_out(self, events: list[tuple[int, int]]) -> None:
        fresh = self._fresh
        fresh.clear()
        source_of = self._sources.get
        for fd, mask in events:
            source = source_of(fd)
            if source is None or fd in fresh:
                continue
            try:
                source.on_events(mask)
            except Exception as exc:
                self._report(None, exc)

    def _finish(self, fiber: Fiber, result: Any, exc: BaseException | None) -> None:
        fiber.done = True
        fiber.result = result
        self.fibers.pop(fiber, None)
        self._timers.drop(fiber)
        for joiner in fiber.joiners or ():
            self.unpark(joiner)
        if exc is not None:
            self._failed(fiber, exc)

    def _failed(self, fiber: Fiber, exc: BaseException) -> None:
        fiber.exception = exc
        if isinstance(exc, Exception):
            self._report(fiber, exc)
        exc.__traceback__ = None  # its frames hold the fiber, and the fiber holds it
        if not isinstance(exc, Exception | Cancelled):
            raise exc  # KeyboardInterrupt, SystemExit: meant for the process

    def _report(self, fiber: Fiber | None, exc: BaseException) -> None:
        self.errors += 1
        try:
            self.on_error(fiber, exc)
        except Exception:
            _log.exception("the loop's on_error failed")

    def _wind_down(self) -> None:
        """Every wait raises Cancelled now, so that each fiber is either ready or done."""
        for fiber in list(self.fibers):
            fiber.cancel()
        for _ in range(LAST_STEPS):
            if not self.fibers:
                return
            self.turn()
        for fiber in list(self.fibers):
            self._finish(fiber, None, RuntimeError(f"{fiber} did not end when cancelled"))
        self._ready.clear()
        self._yielded.clear()


def _log_error(fiber: Fiber | None, exc: BaseException) -> None:
    _log.error("%s failed", fiber or "a callback", exc_info=exc)
