"""The preface of a TCP connection between hosts: vectors whole, byte by byte, with a tail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.snapshot.preface import (
    HEADER_BYTES,
    MAX_BYTES,
    Preface,
    PrefaceError,
    decode,
    encode,
    frame_bytes,
)
from meshkit.telemetry.peer import UNKNOWN, Facts

REVIEWS = Facts("reviews-v1", "default", "reviews", "v1")

VECTORS = {
    "424d54310000": Preface(),
    "424d5431001e"
    "010a" + b"reviews-v1".hex() + "0207" + b"default".hex() + "0303"
    "616263" + "0402" + b"v1".hex(): Preface(Facts("reviews-v1", "default", "abc", "v1")),
    "424d54310008" + "0506" + "1538" + "0a000007": Preface(original=("10.0.0.7", 5432)),
    "424d54310014" + "0512" + "0050" + "fd00" + "00" * 13 + "07": Preface(original=("fd00::7", 80)),
    "424d54310007" + "0301" + "61" + "7f02" + "ffff": Preface(Facts(app="a")),
}


@pytest.mark.parametrize("vector", VECTORS)
def test_vectors(vector: str) -> None:
    data = bytes.fromhex(vector)
    for length in range(HEADER_BYTES):
        assert frame_bytes(data[:length]) is None
    for length in range(HEADER_BYTES, len(data)):
        assert frame_bytes(data[:length]) == len(data)
    assert frame_bytes(data + b"the application's bytes") == len(data)
    assert decode(data) == VECTORS[vector]


@pytest.mark.parametrize("vector", [v for v in VECTORS if "7f02" not in v])
def test_vectors_are_what_is_written(vector: str) -> None:
    assert encode(VECTORS[vector]).hex() == vector


@given(
    st.builds(Facts, *[st.text(max_size=400)] * 4),
    st.none() | st.tuples(st.ip_addresses().map(str), st.integers(0, 65535)),
)
def test_what_is_written_is_read(facts: Facts, original: tuple[str, int] | None) -> None:
    data = encode(Preface(facts, original))
    assert len(data) <= MAX_BYTES and frame_bytes(data) == len(data)
    back = decode(data)
    assert back.original == original
    for said, got, unknown in zip(facts, back.facts, UNKNOWN, strict=True):
        assert got == unknown or said.startswith(got)


@given(st.binary(max_size=80))
def test_any_bytes_are_judged(data: bytes) -> None:
    try:
        decode(b"BMT1" + len(data).to_bytes(2, "big") + data)
    except PrefaceError as error:
        assert error.code == "preface_invalid"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"BMT2\0\0", "preface_invalid"),
        (b"G", "preface_invalid"),
        (b"GET / HTTP/1.1\r\n", "preface_invalid"),
        (b"\x16\x03\x01", "preface_invalid"),
        (b"BMT1\x03\xfb", "preface_size"),
        (b"BMT1\xff\xff", "preface_size"),
    ],
)
def test_what_is_no_preface(data: bytes, code: str) -> None:
    with pytest.raises(PrefaceError) as caught:
        frame_bytes(data)
    assert caught.value.code == code


def test_the_longest_frame_is_taken() -> None:
    assert frame_bytes(b"BMT1" + (MAX_BYTES - HEADER_BYTES).to_bytes(2, "big")) == MAX_BYTES


@pytest.mark.parametrize(
    "fields",
    ["01", "0105", "010561", "01016101016200", "0105616263646501026162", "0500", "0503000000"],
)
def test_fields_that_do_not_add_up(fields: str) -> None:
    data = bytes.fromhex(fields)
    with pytest.raises(PrefaceError):
        decode(b"BMT1" + len(data).to_bytes(2, "big") + data)


@pytest.mark.parametrize("value", [b"\xff\xfe", b"a\nb", b"\x00"])
def test_a_label_that_cannot_be_shown_is_unknown(value: bytes) -> None:
    data = bytes((1, len(value))) + value
    assert decode(b"BMT1" + len(data).to_bytes(2, "big") + data).facts == UNKNOWN
