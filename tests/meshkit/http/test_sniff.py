"""What a connection speaks, by its first bytes: whole, byte by byte, and with a tail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.http.sniff import H2_PREFACE, MAX_SNIFF, sniff

CASES = {
    b"GET / HTTP/1.1\r\n": "http/1.1",
    b"POST http://a/b?c HTTP/1.0\r\n": "http/1.1",
    b"M-SEARCH * HTTP/1.1\r\n": "http/1.1",
    b"PUT /caf\xc3\xa9 HTTP/1.1\n": "http/1.1",
    H2_PREFACE: "h2",
    b"\x16\x03\x01": "tls",
    b"\x16\x03": "tls",
    b"GET key\r\n": "tcp",
    b"GET / HTTP/2.0\r\n": "tcp",
    b"GET  / HTTP/1.1\r\n": "tcp",
    b"PRI * HTTP/2.0\r\n\r\nXX": "tcp",
    b"get /": "tcp",
    b"*1\r\n$4\r\nPING\r\n": "tcp",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f": "tcp",
    b"\x16\x04": "tcp",
    b"EHLO client\r\n": "tcp",
    b"\r\nGET / HTTP/1.1\r\n": "tcp",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ": "tcp",
    b"\n": "tcp",
}


@pytest.mark.parametrize("data", CASES)
def test_protocols(data: bytes) -> None:
    assert sniff(data) == CASES[data]
    assert sniff(data + b"\0tail\r\n\xff") == CASES[data]


@pytest.mark.parametrize("data", CASES)
def test_byte_by_byte_it_is_told_once_and_for_all(data: bytes) -> None:
    verdicts = [sniff(data[:length]) for length in range(len(data) + 1)]
    known = [verdict for verdict in verdicts if verdict is not None]
    assert verdicts[0] is None and set(known) == {CASES[data]}
    assert verdicts.index(known[0]) + len(known) == len(verdicts)


def test_an_endless_line_is_not_waited_for() -> None:
    assert sniff(b"GET /" + b"a" * (MAX_SNIFF - 6)) is None
    assert sniff(b"GET /" + b"a" * MAX_SNIFF) == "tcp"


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_more_bytes_never_change_a_verdict(data: bytes, tail: bytes) -> None:
    first = sniff(data)
    assert first is None or sniff(data + tail) == first
