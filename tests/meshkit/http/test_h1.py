"""Behaviour that single vectors do not show: buffers, limits, rendering, oracles."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.http.fields import FieldTable
from meshkit.http.h1 import (
    CHUNKED,
    LAST_CHUNK,
    NO_LENGTH,
    UNTIL_CLOSE,
    HTTPError,
    RequestReader,
    ResponseReader,
    chunk,
    last_chunk,
    render_request,
    render_response,
)
from meshkit.http.limits import GATEWAY, KNOBS, MESHD, Limits

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def reader_of(data: bytes, limits: Limits = MESHD) -> RequestReader:
    reader = RequestReader(limits)
    reader.feed(data)
    return reader


def drain(reader: RequestReader | ResponseReader, n_max: int = 65536) -> list[bytes | None]:
    pieces: list[bytes | None] = []
    while not reader.done:
        pieces.append(reader.body(n_max))
        if pieces[-1] is None:
            break
    return pieces


def test_pipelined_requests_come_one_by_one() -> None:
    reader = reader_of(GET * 3)
    assert [reader.head() is not None for _ in range(4)] == [True, True, True, False]
    assert not reader.pending()


def test_pending_tells_a_begun_message_from_an_idle_connection() -> None:
    reader = RequestReader(MESHD)
    assert not reader.pending()
    reader.feed(GET[:4])
    assert reader.head() is None and reader.pending()
    reader.feed(GET[4:])
    assert reader.head() is not None and not reader.pending()


def test_head_before_the_body_was_read_is_a_mistake_of_the_caller() -> None:
    reader = reader_of(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + GET)
    assert reader.head() is not None
    with pytest.raises(RuntimeError, match="not read to its end"):
        reader.head()
    assert reader.whole_body() == b"abc"
    assert reader.done and reader.head() is not None


def test_whole_body_waits_for_all_of_it() -> None:
    reader = reader_of(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab")
    assert reader.head() is not None
    assert reader.whole_body() is None
    reader.feed(b"c")
    assert reader.whole_body() == b"abc"


def test_a_body_is_handed_out_in_pieces_of_the_size_asked_for() -> None:
    reader = reader_of(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nabcdefg")
    assert reader.head() is not None
    assert drain(reader, 3) == [b"abc", b"def", b"g"]


def test_chunks_at_hand_are_joined_and_the_end_is_seen_at_once() -> None:
    reader = reader_of(POST + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n" + GET)
    assert reader.head() is not None
    assert reader.body() == b"abc"
    assert reader.done and reader.body() == b""
    assert reader.head() is not None


def test_a_large_chunk_streams_without_waiting_for_its_end() -> None:
    reader = reader_of(POST + b"ffffffff\r\nabc")
    assert reader.head() is not None
    assert drain(reader) == [b"abc", None]
    reader.feed(b"d" * 1000)
    assert drain(reader, 600) == [b"d" * 600, b"d" * 400, None]


def test_a_large_body_passes_without_a_copy() -> None:
    reader = reader_of(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    assert reader.head() is not None
    data = bytes(50_000)
    reader.feed(data)
    assert reader.body() is data


def test_eof_ends_a_response_without_length() -> None:
    reader = ResponseReader(MESHD)
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc")
    head = reader.head(b"GET")
    assert head is not None and head.body == UNTIL_CLOSE
    assert reader.body(2) == b"ab" and reader.body(2) == b"c" and reader.body(2) is None
    reader.eof()
    assert reader.body() == b"" and reader.done


def test_nothing_is_searched_twice_when_bytes_come_singly() -> None:
    reader = RequestReader(MESHD)
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 15_000
    for i in range(len(data)):
        reader.feed(data[i : i + 1])
        assert reader.head() is None
        assert reader._scan >= reader.buffered - 3


def test_the_buffer_is_bounded_by_the_limits_and_one_read() -> None:
    reader = RequestReader(MESHD)
    reader.feed(b"GET / HTTP/1.1\r\n")
    fed = 0
    with pytest.raises(HTTPError) as error:
        while True:
            reader.feed(b"X: y\r\n" * 1000)
            fed += 6000
            reader.head()
    assert error.value.status in (414, 431)
    assert fed <= MESHD.header_bytes + 6000


def test_the_gateway_has_tighter_sizes() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000 + b"\r\n\r\n"
    assert reader_of(head).head() is not None
    with pytest.raises(HTTPError) as error:
        reader_of(head, GATEWAY).head()
    assert (error.value.status, error.value.code) == (431, "header_too_large")


def test_the_table_of_lines_is_bounded_and_keeps_no_secrets() -> None:
    table = FieldTable()
    for number in range(5000):
        fields, special = table.parse([b"X-N: %d" % number, b"Content-Length: %d" % number])
        assert fields == [(b"x-n", b"%d" % number)]
        assert [s.number for s in special] == [number]
    for line in (b"Authorization: Basic x", b"cookie: a", b"X: " + b"y" * 300):
        assert len(table.parse([line])[0]) == 1
        assert line not in table
    assert table.parse([b"Proxy-Authorization: Basic x"])[0] == []
    assert len(table) <= 2048 and len(table._specials) <= 1024
    assert b"Proxy-Authorization: Basic x" not in table._specials


def test_the_table_keeps_the_order_among_many_special_fields() -> None:
    lines = [b"Host: a", b"x: 1", b"Connection: keep-alive", b"y: 2", b"TE: a", b"Upgrade: b"]
    for _ in range(2):
        fields, special = FieldTable().parse([*lines, b"Keep-Alive: 5", b"z: 3"])
        assert fields == [(b"x", b"1"), (b"y", b"2"), (b"z", b"3")]
        assert [s.value for s in special] == [b"a", b"keep-alive", b"a", b"b", b"5"]


def test_limits_are_overridden_by_their_names() -> None:
    limits = MESHD.override({"headerBytes": 1000, "keepalive_idle": 5})
    assert (limits.header_bytes, limits.keepalive_idle) == (1000, 5)
    assert KNOBS["headerBytes"] == "header_bytes"


@pytest.mark.parametrize("knobs", [{"headerByte": 1}, {"headerBytes": -1}, {"headerBytes": True}])
def test_a_wrong_limit_is_refused_by_name(knobs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"limits\.headerByte"):
        MESHD.override(knobs)


def test_render_request() -> None:
    fields = [(b"a", b"1"), (b"b", b"")]
    assert render_request(b"GET", b"/x", b"h:1", fields, 0, b"c: 3\r\n") == (
        b"GET /x HTTP/1.1\r\nhost: h:1\r\na: 1\r\nb: \r\nc: 3\r\n\r\n"
    )
    assert render_request(b"POST", b"/", b"h", [], 0).endswith(b"content-length: 0\r\n\r\n")
    assert render_request(b"PUT", b"/", b"h", [], 7).endswith(b"content-length: 7\r\n\r\n")
    assert b"\r\ntransfer-encoding: chunked\r\n\r\n" in render_request(
        b"PUT", b"/", b"h", [], CHUNKED
    )


@pytest.mark.parametrize(
    ("body", "keep", "lines"),
    [
        (0, True, b"content-length: 0\r\n"),
        (9, False, b"content-length: 9\r\nconnection: close\r\n"),
        (CHUNKED, True, b"transfer-encoding: chunked\r\n"),
        (UNTIL_CLOSE, False, b"connection: close\r\n"),
        (NO_LENGTH, True, b""),
    ],
)
def test_render_response(body: int, keep: bool, lines: bytes) -> None:
    rendered = render_response(200, b"OK", [(b"a", b"1")], body, keep, b"x: y\r\n")
    assert rendered == b"HTTP/1.1 200 OK\r\na: 1\r\n" + lines + b"x: y\r\n\r\n"


def test_chunks_and_trailers() -> None:
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert last_chunk() == LAST_CHUNK
    assert last_chunk([(b"a", b"1")]) == b"0\r\na: 1\r\n\r\n"


class Oracle:
    """llhttp's reading of one request."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.messages = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.messages += 1


_PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.1\r\n",
        b"POST / HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: x\r\n",
        b"Connection: close\r\n",
        b"X-A: b\r\n",
        b" folded\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"abc",
        b"3\r\nabc\r\n",
        b"3;x=y\r\nabc\r\n",
        b"0\r\n\r\n",
        b"0\r\nX-T: 1\r\n\r\n",
    ]
)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n", b""]),
    st.lists(_PIECES, max_size=8),
)
def test_what_is_accepted_llhttp_reads_the_same(start: bytes, pieces: list[bytes]) -> None:
    """Smuggling needs two readers that disagree: none may, about the first message."""
    data = start + b"".join(pieces)
    reader = reader_of(data)
    try:
        head = reader.head()
        if head is None:
            return
        body = b"".join(piece for piece in drain(reader) if piece)
    except HTTPError:
        return
    if not reader.done:
        return
    message = data[: len(data) - reader.buffered]
    oracle = Oracle()
    parser = httptools.HttpRequestParser(oracle)
    parser.feed_data(message)
    assert oracle.messages == 1
    assert oracle.body == body
    kept = [f for f in oracle.fields if f in head.headers]
    assert kept[: len(head.headers)] == head.headers


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(1, 30), min_size=1, max_size=10),
    st.integers(1, 50),
)
def test_a_chunked_body_survives_any_cut(parts: list[bytes], cuts: list[int], n_max: int) -> None:
    data = POST + b"".join(map(chunk, parts)) + LAST_CHUNK + GET
    reader = RequestReader(MESHD)
    body = b""
    position = 0
    turn = 0
    head = reader.head()
    while head is None or not reader.done:
        piece = reader.body(n_max) if head is not None else None
        if piece is None:
            size = cuts[turn % len(cuts)]
            reader.feed(data[position : position + size])
            position += size
            turn += 1
            head = head or reader.head()
        else:
            body += piece
    assert body == b"".join(parts)
    reader.feed(data[position:])
    assert reader.head() is not None and not reader.buffered


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    """No byte string makes the readers fail in another way than HTTPError."""
    for reader in (RequestReader(MESHD), ResponseReader(MESHD)):
        reader.feed(data)
        try:
            if isinstance(reader, RequestReader):
                reader.head()
            else:
                reader.head(b"GET")
            drain(reader)
        except HTTPError:
            pass


@pytest.mark.parametrize(
    "piece",
    [
        b"1\r\nx\r\n",
        b"1\r\nx\r\n2\r\nxy\r\n",
        b"01\r\nx\r\n",
        b"1;\r\nx\r\n",
        b"0040\r\n" + b"x" * 64 + b"\r\n",
    ],
)
def test_a_flood_of_tiny_chunks_is_refused(piece: bytes) -> None:
    reader = reader_of(POST, GATEWAY)
    assert reader.head() is not None
    with pytest.raises(HTTPError, match="tiny_chunks"):
        for _ in range(4):
            reader.feed(piece * (65536 // len(piece)))
            while reader.body() is not None:
                pass
    assert reader_of(GET, GATEWAY).head() is not None


@pytest.mark.parametrize(
    ("piece", "at_once"),
    [(b"1\r\nx\r\n", 1), (b"1\r\nx\r\n", 16), (b"28\r\n" + b"x" * 40 + b"\r\n", 1424)],
)
def test_small_chunks_as_programs_write_them_are_read(piece: bytes, at_once: int) -> None:
    """A keystroke a read, a burst of them, lines of 40 bytes as fast as they come."""
    reader = reader_of(POST, GATEWAY)
    assert reader.head() is not None
    for _ in range(200_000 // len(piece * at_once)):
        reader.feed(piece * at_once)
        assert reader.body() is not None
        assert reader.body() is None


def test_tiny_chunks_of_a_response_are_the_applications_business() -> None:
    reader = ResponseReader(GATEWAY)
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000)
    assert reader.head(b"GET") is not None
    assert sum(len(piece or b"") for piece in drain(reader)) == 10_000


def test_the_same_head_again_is_the_same_head_and_its_body_still_follows() -> None:
    reader = RequestReader(MESHD)
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    reader.feed(raw + b"hi" + raw + b"yo" + b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
    first = reader.head()
    assert reader.body() == b"hi"
    second = reader.head()
    assert second is first
    assert reader.body() == b"yo"
    other = reader.head()
    assert other is not None and other.authority == b"b"


def test_the_same_answer_to_head_has_no_body() -> None:
    reader = ResponseReader(MESHD)
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    reader.feed(raw + b"hi" + raw + raw + b"yo")
    for method, body in ((b"GET", 2), (b"HEAD", 0), (b"GET", 2)):
        head = reader.head(method)
        assert head is not None and head.body == body
        while reader.body():
            pass
