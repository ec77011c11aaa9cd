from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from meshd.agent.supervisor import (
    ADOPTION_GRACE,
    CRASH_AGE,
    CRASH_CAP,
    HELLO_TIMEOUT,
    TRANSITIONS,
    Action,
    Event,
    IllegalTransition,
    Kill,
    Lend,
    Phase,
    Start,
    Supervisor,
    TakeBack,
    crash_delay,
)


def fresh(count: int) -> Supervisor:
    supervisor = Supervisor(count, 0.0)
    supervisor.start_at_once(0.0)
    return supervisor


def run_up(supervisor: Supervisor, now: float = 0.0) -> list[Action]:
    """Start every worker, let it say hello and acknowledge."""
    actions: list[Action] = []
    for slot in supervisor.slots:
        supervisor.started(slot.index, 100 + slot.index, now)
        supervisor.hello(slot.index, 100 + slot.index, now)
        actions += supervisor.acked(slot.index, now)
    return actions


def fire(supervisor: Supervisor, event: Event, now: float = 1.0) -> None:
    calls: dict[Event, Callable[[], list[Action]]] = {
        Event.FOUND: lambda: supervisor.found(0, 100, now),
        Event.START: lambda: supervisor.started(0, 100, now),
        Event.HELLO: lambda: supervisor.hello(0, 100, now),
        Event.ACKED: lambda: supervisor.acked(0, now),
        Event.LOST: lambda: supervisor.lost(0, now),
        Event.EXITED: lambda: supervisor.exited(0, now),
    }
    calls[event]()


PATHS: dict[Phase, list[Event]] = {
    Phase.MISSING: [],
    Phase.EXPECTED: [Event.FOUND],
    Phase.STARTING: [Event.START],
    Phase.CONNECTED: [Event.START, Event.HELLO],
    Phase.READY: [Event.START, Event.HELLO, Event.ACKED],
    Phase.SILENT: [Event.START, Event.HELLO, Event.LOST],
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_every_phase_with_every_event(phase: Phase, event: Event) -> None:
    supervisor = fresh(1)
    for step in PATHS[phase]:
        fire(supervisor, step, 0.5)
    assert supervisor.slots[0].phase is phase
    after = TRANSITIONS.get((phase, event))
    if after is None:
        with pytest.raises(IllegalTransition, match=f"worker 0: {event} while {phase}"):
            fire(supervisor, event)
    else:
        fire(supervisor, event)
        assert supervisor.slots[0].phase is after


def test_without_traces_all_start_at_once() -> None:
    assert fresh(3).tick(0.0) == [Start(0), Start(1), Start(2)]


def test_an_unknown_runner_has_a_second_to_say_hello() -> None:
    supervisor = Supervisor(2, 0.0)
    assert supervisor.tick(ADOPTION_GRACE - 0.01) == []
    supervisor.hello(1, 77, 0.5)
    assert supervisor.next_tick() == ADOPTION_GRACE
    assert supervisor.tick(ADOPTION_GRACE) == [Start(0)]


def test_found_workers_are_not_started_a_second_time() -> None:
    supervisor = Supervisor(2, 0.0)
    supervisor.found(0, 71, 0.0)
    supervisor.found(1, 72, 0.0)
    assert supervisor.tick(5.0) == []
    assert supervisor.admits(0, 71) == ""
    assert "process 71" in supervisor.admits(0, 99)
    supervisor.hello(0, 71, 5.0)
    assert "which is connected" in supervisor.admits(0, 71)


def test_an_index_beyond_the_count_is_turned_away() -> None:
    assert "no index 2" in fresh(2).admits(2, 5)
    assert "no index -1" in fresh(2).admits(-1, 5)


def test_a_process_without_hello_is_killed_once_and_replaced() -> None:
    supervisor = fresh(1)
    supervisor.started(0, 100, 0.0)
    assert supervisor.next_tick() == HELLO_TIMEOUT
    assert supervisor.tick(HELLO_TIMEOUT) == [Kill(0, 100, "no_hello")]
    assert supervisor.tick(HELLO_TIMEOUT + 1) == []
    supervisor.exited(0, HELLO_TIMEOUT + 1)
    assert supervisor.tick(HELLO_TIMEOUT + 1) == [Start(0)]


def test_silent_is_not_dead() -> None:
    supervisor = fresh(2)
    run_up(supervisor)
    assert supervisor.lost(0, 1.0) == []
    assert supervisor.tick(1.0 + HELLO_TIMEOUT - 0.1) == []
    assert supervisor.admits(0, 100) == ""
    assert supervisor.hello(0, 100, 5.0) == []


def test_the_first_crash_restarts_at_once_and_repeated_ones_back_off() -> None:
    supervisor = fresh(1)
    now, delays = 0.0, []
    for _ in range(9):
        supervisor.started(0, 100, now)
        supervisor.exited(0, now + 1)
        delays.append(supervisor.slots[0].start_at - (now + 1))
        now = supervisor.slots[0].start_at
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, CRASH_CAP, CRASH_CAP]


def test_a_long_life_forgives() -> None:
    supervisor = fresh(1)
    for born, died in ((0.0, 1.0), (1.0, 2.0), (3.0, 3.0 + CRASH_AGE)):
        supervisor.started(0, 100, born)
        supervisor.exited(0, died)
    assert supervisor.slots[0].crashes == 0
    assert crash_delay(0) == crash_delay(1) == 0.0


def test_a_process_that_cannot_be_made_counts_as_a_crash() -> None:
    supervisor = fresh(1)
    supervisor.started(0, 0, 0.0)
    assert supervisor.slots[0].phase is Phase.MISSING
    assert supervisor.slots[0].crashes == 1


def test_sockets_of_a_dead_worker_are_lent_and_taken_back() -> None:
    supervisor = fresh(3)
    run_up(supervisor)
    assert supervisor.exited(1, 60.0) == [Lend(1, 0)]
    assert supervisor.exited(2, 60.0) == [Lend(2, 0)]
    assert supervisor.tick(60.0) == [Start(1), Start(2)]
    supervisor.started(1, 201, 60.0)
    assert supervisor.hello(1, 201, 60.3) == []
    assert supervisor.acked(1, 60.4) == [TakeBack(1, 0)]
    assert supervisor.acked(1, 60.5) == []


def test_a_dead_borrower_s_loans_move_on() -> None:
    supervisor = fresh(3)
    run_up(supervisor)
    supervisor.exited(2, 60.0)
    assert supervisor.exited(0, 60.0) == [Lend(0, 1), Lend(2, 1)]


def test_the_first_ready_worker_serves_the_queues_of_those_still_starting() -> None:
    supervisor = fresh(2)
    for index in (0, 1):
        supervisor.started(index, 100 + index, 0.0)
    supervisor.hello(0, 100, 0.3)
    assert supervisor.acked(0, 0.4) == [Lend(1, 0)]
    supervisor.hello(1, 101, 0.5)
    assert supervisor.acked(1, 0.6) == [TakeBack(1, 0)]


def test_with_nobody_ready_the_loan_waits() -> None:
    supervisor = fresh(2)
    run_up(supervisor)
    supervisor.exited(0, 60.0)
    assert supervisor.exited(1, 60.0) == []
    supervisor.started(0, 200, 60.0)
    supervisor.hello(0, 200, 60.2)
    assert supervisor.acked(0, 60.3) == [Lend(1, 0)]


@pytest.mark.parametrize("seed", range(50))
def test_no_index_is_served_by_two_and_none_by_nobody(seed: int) -> None:
    """Random histories: each index has its own live worker or one loan, while any is ready."""
    rng = random.Random(seed)
    supervisor = fresh(4)
    loans: dict[int, int] = {}
    now = 0.0

    def apply(actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Lend):
                assert action.index not in loans
                loans[action.index] = action.to
            elif isinstance(action, TakeBack):
                assert loans.pop(action.index) == action.borrower
            elif isinstance(action, Start):
                apply(supervisor.started(action.index, rng.choice([0, 500]), now))

    for _ in range(400):
        now += rng.random()
        slot = rng.choice(supervisor.slots)
        event = rng.choice([e for (phase, e) in TRANSITIONS if phase is slot.phase])
        if event is Event.EXITED:
            for index in [i for i, to in loans.items() if to == slot.index]:
                del loans[index]  # the borrower's descriptors died with it
            apply(supervisor.exited(slot.index, now))
        elif event is Event.HELLO:
            apply(supervisor.hello(slot.index, slot.pid or 500, now))
        elif event is Event.ACKED:
            apply(supervisor.acked(slot.index, now))
        elif event is Event.LOST:
            apply(supervisor.lost(slot.index, now))
        apply(supervisor.tick(now))
        phases = [s.phase for s in supervisor.slots]
        assert {s.index: s.lent_to for s in supervisor.slots if s.lent_to is not None} == loans
        for index, borrower in loans.items():
            assert phases[index] is not Phase.READY
            assert phases[borrower] in (Phase.READY, Phase.SILENT, Phase.CONNECTED)
        if Phase.READY in phases:
            absent = [i for i, p in enumerate(phases) if p in (Phase.MISSING, Phase.STARTING)]
            assert all(i in loans for i in absent)
