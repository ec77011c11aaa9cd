from __future__ import annotations

from ca.wire import cause_of


def test_the_cause_of_a_failed_connect_is_in_the_systems_words() -> None:
    refused = ConnectionRefusedError(111, "Connection refused")
    attempts = ExceptionGroup("all attempts", [OSError(101, "no route"), refused])
    outer = OSError("all attempts to connect failed")
    outer.__cause__ = attempts
    assert cause_of(outer) == "Connection refused"
    outer.__cause__ = refused
    assert cause_of(outer) == "Connection refused"


def test_an_error_without_words_is_known_by_its_kind() -> None:
    assert cause_of(EOFError()) == "EOFError"
