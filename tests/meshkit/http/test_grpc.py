"""gRPC as a proxy sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.http import grpc


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1S", 1.0),
        (b"2M", 120.0),
        (b"3H", 10800.0),
        (b"250m", 0.25),
        (b"7u", 7e-6),
        (b"9n", 9e-9),
        (b"0S", 0.0),
        (b"99999999H", 99999999 * 3600.0),
        (b"", None),
        (b"1", None),
        (b"S", None),
        (b"1s", None),
        (b"-1S", None),
        (b"+1S", None),
        (b"1_0S", None),
        (b"1.5S", None),
        (b"123456789S", None),
        (b" 1S", None),
    ],
)
def test_timeout(value: bytes, seconds: float | None) -> None:
    assert grpc.timeout(value) == (None if seconds is None else pytest.approx(seconds))


@given(st.floats(min_value=0, max_value=1e9))
def test_a_rendered_timeout_is_never_shorter_and_hardly_longer(seconds: float) -> None:
    again = grpc.timeout(grpc.render_timeout(seconds))
    assert again is not None
    assert seconds * (1 - 1e-9) <= again <= seconds * 1.0001 + 2e-9


def test_a_timeout_longer_than_the_format_holds() -> None:
    assert grpc.render_timeout(1e15) == b"99999999H"
    assert grpc.render_timeout(-1) == b"1n"


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/gRPC; charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/grpcx", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_is_grpc(value: bytes, verdict: bool) -> None:
    assert grpc.is_grpc(value) is verdict


def test_statuses() -> None:
    table = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14, 500: 2}
    assert {code: grpc.status_of(code) for code in table} == table
    assert grpc.status_of_reply(504) == grpc.DEADLINE_EXCEEDED
    assert grpc.status_of_reply(503) == grpc.UNAVAILABLE
    assert [grpc.status_of_reset(code) for code in (0, 7, 8, 11, 12)] == [13, 14, 1, 8, 7]


@pytest.mark.parametrize(("value", "status"), [(b"0", 0), (b"14", 14), (b"", 2), (b"-1", 2)])
def test_a_status_as_sent(value: bytes, status: int) -> None:
    assert grpc.read_status(value) == status
    assert grpc.read_status(value + b"\xb2") == 2


def test_trailers_only() -> None:
    assert grpc.trailers_only(14, "no healthy endpoint: 100%\n") == [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"14"),
        (b"grpc-message", b"no healthy endpoint: 100%25%0A"),
    ]
    assert len(grpc.trailers_only(0)) == 3
    assert grpc.encode_message("é") == b"%C3%A9"
    assert len(grpc.encode_message("x" * 5000)) == 1024


@given(st.lists(st.integers(0, 40), max_size=8), st.lists(st.integers(1, 30)))
def test_messages_are_counted_however_the_bytes_are_cut(sizes: list[int], cuts: list[int]) -> None:
    body = b"".join(b"\0" + size.to_bytes(4) + b"x" * size for size in sizes)
    counter = grpc.MessageCounter()
    for cut in cuts:
        counter.feed(body[:cut])
        body = body[cut:]
    counter.feed(body)
    assert counter.messages == len(sizes)


def test_a_message_longer_than_any_piece() -> None:
    counter = grpc.MessageCounter()
    counter.feed(b"\0" + (1 << 20).to_bytes(4))
    for _ in range(16):
        counter.feed(bytes(65536))
    assert counter.messages == 1
    counter.feed(b"\0\0\0\0\0" * 3)
    assert counter.messages == 4
