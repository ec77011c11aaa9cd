from __future__ import annotations

from meshd.agent.ledger import (
    KeyPair,
    Ledger,
    SendAccessLog,
    SendClose,
    SendKeys,
    SendListener,
    SendMap,
    SendRoots,
    Wanted,
)
from meshkit.snapshot.types import Snapshot


def snapshot(revision: str) -> Snapshot:
    return Snapshot(revision, "h", {}, {})


PAIR = KeyPair(b"chain", b"key")
ONE, TWO, THREE = snapshot("1"), snapshot("2"), snapshot("3")


def test_the_order_at_start_is_the_contract_s() -> None:
    wanted = Wanted({"td": "PEM"}, {"spiffe://td/a": PAIR}, 7, 1, ONE)
    assert Ledger(0).plan(wanted, {"mesh": 0}, []) == [
        SendRoots({"td": "PEM"}),
        SendKeys("spiffe://td/a", PAIR),
        SendAccessLog(7),
        SendListener("mesh", 0, False),
        SendMap(None, ONE),
    ]


def test_nothing_new_nothing_sent() -> None:
    wanted = Wanted({"td": "PEM"}, {"a": PAIR}, 7, 1, ONE)
    ledger = Ledger(0)
    ledger.plan(wanted, {"mesh": 0}, [("mesh", 1)])
    assert ledger.plan(wanted, {"mesh": 0}, [("mesh", 1)]) == []


def test_only_a_renewed_key_is_sent() -> None:
    ledger = Ledger(0)
    ledger.plan(Wanted(keys={"a": PAIR, "b": PAIR}), {}, [])
    renewed = KeyPair(b"chain2", b"key2")
    assert ledger.plan(Wanted(keys={"a": PAIR, "b": renewed}), {}, []) == [SendKeys("b", renewed)]


def test_maps_build_on_the_last_one_sent_acknowledged_or_not() -> None:
    ledger = Ledger(0)
    ledger.plan(Wanted(snapshot=ONE), {}, [])
    assert ledger.plan(Wanted(snapshot=TWO), {}, []) == [SendMap(ONE, TWO)]


def test_after_a_refusal_the_next_map_is_full_and_the_refused_one_is_not_repeated() -> None:
    ledger = Ledger(0)
    ledger.plan(Wanted(snapshot=ONE), {}, [])
    ledger.ack("1")
    ledger.plan(Wanted(snapshot=TWO), {}, [])
    ledger.refuse("2", "regex too large")
    assert ledger.plan(Wanted(snapshot=TWO), {}, []) == []
    assert (ledger.live, ledger.refused) == ("1", {"2": "regex too large"})
    assert ledger.plan(Wanted(snapshot=THREE), {}, []) == [SendMap(None, THREE)]
    ledger.ack("3")
    assert ledger.refused == {}
    assert ledger.current(Wanted(snapshot=THREE))


def test_an_adopted_worker_keeps_its_listeners() -> None:
    ledger = Ledger(1, own={"mesh": 0}, live="1")
    assert ledger.plan(Wanted(), {"mesh": 0, "proxy": 0}, []) == [
        SendAccessLog(None),
        SendListener("proxy", 1, False),
    ]


def test_a_listener_is_closed_only_when_the_worker_runs_a_revision_without_it() -> None:
    ledger = Ledger(0, own={"mesh": 0, "plain": 0})
    wanted = Wanted(snapshot=TWO)
    ledger.ack("1")
    assert ledger.plan_closing(wanted, ["plain"]) == []
    ledger.ack("2")
    assert ledger.plan_closing(wanted, ["plain"]) == [SendClose("plain", False)]
    assert ledger.plan_closing(wanted, ["plain"]) == []


def test_loans_are_given_and_taken_back() -> None:
    ledger = Ledger(0, own={"mesh": 0}, _log_opened=0)
    assert ledger.plan(Wanted(), {"mesh": 0}, [("mesh", 1), ("mesh", 2)]) == [
        SendListener("mesh", 1, True),
        SendListener("mesh", 2, True),
    ]
    assert ledger.plan(Wanted(), {"mesh": 0}, [("mesh", 2)]) == [
        SendClose("mesh", True),
        SendListener("mesh", 2, True),
    ]
    assert ledger.plan(Wanted(), {"mesh": 0}, []) == [SendClose("mesh", True)]


def test_loans_of_an_earlier_agent_are_closed_first() -> None:
    ledger = Ledger(0, own={"mesh": 0}, stale_loans={"mesh"}, _log_opened=0)
    assert ledger.plan(Wanted(), {"mesh": 0}, [("mesh", 1)]) == [
        SendClose("mesh", True),
        SendListener("mesh", 1, True),
    ]


def test_a_listener_that_moved_is_sent_again() -> None:
    ledger = Ledger(0, own={"mesh": 0}, _log_opened=0)
    assert ledger.plan(Wanted(), {"mesh": 1}, []) == [SendListener("mesh", 0, False)]
