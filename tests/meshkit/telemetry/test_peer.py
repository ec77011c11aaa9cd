"""The peer header: what was said comes back, and anything else is unknown."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.telemetry.peer import MAX_BYTES, UNKNOWN, Facts, decode_facts, encode_facts

NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789-.", min_size=1, max_size=40)


@given(NAME, NAME, NAME, NAME)
def test_round_trip(workload: str, namespace: str, app: str, version: str) -> None:
    facts = Facts(workload, namespace, app, version)
    value = encode_facts(facts)
    assert len(value) <= MAX_BYTES and b"=" not in value
    assert decode_facts(value) == facts


def test_empty_values_read_as_unknown() -> None:
    assert decode_facts(encode_facts(Facts("w", "n", "", ""))) == Facts("w", "n")


@given(st.text(max_size=2000))
def test_any_text_fits(text: str) -> None:
    assert len(encode_facts(Facts(text, text, text, text))) <= MAX_BYTES


def test_long_values_are_cut() -> None:
    facts = decode_facts(encode_facts(Facts("w" * 300, "n", "a", "v")))
    assert facts.workload.startswith("w" * 60) and facts.namespace == "n"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"!!!",
        b"a",
        b"\xff\xfe",
        b"x" * 513,
        urlsafe_b64encode(b"[1]"),
        urlsafe_b64encode(b"[" * 300),
        urlsafe_b64encode(b'{"workload": 1, "app": "a\\nb", "version": "", "namespace": null}'),
        urlsafe_b64encode(b"\xff\xff"),
    ],
)
def test_unreadable_is_unknown(value: bytes) -> None:
    assert decode_facts(value) == UNKNOWN


@given(st.binary(max_size=600))
def test_decoding_never_fails(value: bytes) -> None:
    assert all(isinstance(fact, str) and fact for fact in decode_facts(value))
