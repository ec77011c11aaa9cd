from __future__ import annotations

import socket
import ssl

from ca.wire import cause_of


def test_the_cause_of_a_failed_connect_is_in_the_systems_words() -> None:
    refused = ConnectionRefusedError(111, "Connection refused")
    attempts = ExceptionGroup("all attempts", [OSError(101, "no route"), refused])
    outer = OSError("all attempts to connect failed")
    outer.__cause__ = attempts
    assert cause_of(outer) == "Connection refused"
    outer.__cause__ = refused
    assert cause_of(outer) == "Connection refused"
    assert cause_of(OSError(113, "Error connecting to ('10.0.0.2', 1): x")) == "No route to host"


def test_tls_and_names_have_numbers_of_their_own() -> None:
    assert cause_of(ssl.SSLError(1, "certificate expired")) == "certificate expired"
    assert cause_of(socket.gaierror(-2, "Name or service not known")).startswith("Name or")


def test_an_error_without_words_is_known_by_its_kind() -> None:
    assert cause_of(EOFError()) == "EOFError"
