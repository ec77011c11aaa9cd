"""What both engines promise in `meshkit.http.h2`, told by two of them back to back."""

from __future__ import annotations

import sys

import pytest

from meshkit.http.h2 import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    LAST_STREAM,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    GoingAway,
    H2Error,
    StreamsExhausted,
    goaway_frame,
)
from meshkit.http.limits import MESHD
from tests.meshkit.http.h2_pair import GET, OK, POST, Pair, drain, engine_of

ENGINES = ["ngh2", "h2"]


@pytest.fixture(params=ENGINES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def test_a_request_and_its_answer(pair: Pair) -> None:
    stream = pair.open()
    assert pair.at_server.take() == [("request", stream, GET, True)]
    pair.server.respond(stream, OK, False)
    pair.server.send(stream, b"hello", True)
    pair.exchange()
    assert pair.at_client.take() == [
        ("response", stream, OK, False),
        ("data", stream, b"hello", True),
        ("closed", stream),
    ]
    assert pair.at_server.take("closed") == [("closed", stream)]
    assert pair.client.streams == pair.server.streams == 0
    assert pair.server.last_stream == stream


def test_an_answer_without_a_body_ends_with_its_head(pair: Pair) -> None:
    stream = pair.open()
    pair.server.respond(stream, OK, True)
    pair.exchange()
    assert pair.at_client.take() == [("response", stream, OK, True), ("closed", stream)]


def test_trailers_both_ways(pair: Pair) -> None:
    stream = pair.open(POST, False)
    pair.client.send(stream, b"q", False)
    pair.client.trailers(stream, [(b"x-sum", b"1")])
    pair.exchange()
    assert pair.at_server.take() == [
        ("request", stream, POST, False),
        ("data", stream, b"q", False),
        ("trailers", stream, [(b"x-sum", b"1")]),
    ]
    pair.server.respond(stream, OK, False)
    pair.server.trailers(stream, [(b"grpc-status", b"0")])
    pair.exchange()
    calls = pair.at_client.take()
    assert calls[0][0] == "response" and calls[-2:] == [
        ("trailers", stream, [(b"grpc-status", b"0")]),
        ("closed", stream),
    ]


def test_interim_responses_come_before_the_final_one(pair: Pair) -> None:
    stream = pair.open()
    hints = [(b":status", b"103"), (b"link", b"</a.css>")]
    pair.server.interim(stream, hints)
    pair.server.respond(stream, OK, True)
    pair.exchange()
    assert pair.at_client.take("interim", "response") == [
        ("interim", stream, hints),
        ("response", stream, OK, True),
    ]


def test_a_body_stops_at_the_window_until_it_was_taken(pair: Pair) -> None:
    stream = pair.open()
    window = MESHD.http2_stream_window
    pair.server.respond(stream, OK, False)
    pair.server.send(stream, bytes(window + 10_000), True)
    pair.exchange()
    got = sum(len(call[2]) for call in pair.at_client.take("data"))  # type: ignore[arg-type]
    assert got == window and pair.server.queued(stream) == 10_000
    pair.client.taken(stream, got)
    pair.exchange()
    assert ("window", stream) in pair.at_server.take()
    rest = pair.at_client.take("data")
    assert sum(len(call[2]) for call in rest) == 10_000 and rest[-1][3]  # type: ignore[arg-type]
    assert pair.server.queued(stream) == 0


def test_stalled_streams_do_not_stall_the_next(pair: Pair) -> None:
    streams = [pair.open() for _ in range(51)]
    for stream in streams[:50]:
        pair.server.respond(stream, OK, False)
        pair.server.send(stream, bytes(100_000), True)
    pair.exchange()
    pair.at_client.take()
    pair.server.respond(streams[50], OK, False)
    pair.server.send(streams[50], bytes(1000), True)
    pair.exchange()
    assert ("data", streams[50], bytes(1000), True) in pair.at_client.take()


def test_credit_comes_back_for_bytes_of_a_stream_that_is_gone(pair: Pair) -> None:
    """Else every reset stream would take a bite from the connection's window."""
    limits = MESHD.override({"http2_connection_window": 65535})
    pair = Pair(pair_name(pair), server_limits=limits)
    for _ in range(8):
        stream = pair.open(POST, False)
        pair.client.send(stream, bytes(30_000), False)
        pair.exchange()
        pair.client.reset(stream, CANCEL)
        pair.exchange()
        got = sum(len(call[2]) for call in pair.at_server.take("data"))  # type: ignore[arg-type]
        assert got == 30_000
        pair.server.taken(stream, got)
        pair.exchange()


def pair_name(pair: Pair) -> str:
    return "ngh2" if type(pair.server).__name__ == "NGH2Engine" else "h2"


def test_resets_of_either_side(pair: Pair) -> None:
    first, second = pair.open(POST, False), pair.open(POST, False)
    pair.at_server.take()
    pair.client.reset(first, CANCEL)
    pair.server.reset(second, REFUSED_STREAM)
    pair.exchange()
    assert pair.at_server.take() == [
        ("reset", first, CANCEL, False),
        ("closed", first),
        ("closed", second),
    ]
    assert pair.at_client.take() == [
        ("closed", first),
        ("reset", second, REFUSED_STREAM, False),
        ("closed", second),
    ]


def test_what_was_on_its_way_to_a_reset_stream_is_not_told(pair: Pair) -> None:
    stream = pair.open()
    pair.server.respond(stream, OK, False)
    pair.server.send(stream, b"late", True)
    late = drain(pair.server)
    pair.client.reset(stream, CANCEL)
    pair.client.receive(late, 0.0)
    pair.exchange()
    assert pair.at_client.take() == [("closed", stream)]


def test_a_reset_does_not_overtake_the_response_before_it(pair: Pair) -> None:
    stream = pair.open(POST, False)
    pair.server.respond(stream, OK, False)
    pair.server.send(stream, b"sorry", False)
    pair.server.reset(stream, CANCEL)
    pair.exchange()
    assert pair.at_client.take() == [
        ("response", stream, OK, False),
        ("data", stream, b"sorry", False),
        ("reset", stream, CANCEL, False),
        ("closed", stream),
    ]


def test_a_reset_without_error_waits_for_the_whole_answer(pair: Pair) -> None:
    stream = pair.open(POST, False)
    pair.server.respond(stream, OK, False)
    pair.server.send(stream, bytes(100_000), True)
    pair.server.reset(stream, NO_ERROR)
    total = 0
    for _ in range(3):
        pair.exchange()
        got = sum(len(call[2]) for call in pair.at_client.take("data"))  # type: ignore[arg-type]
        pair.client.taken(stream, got)
        total += got
    assert total == 100_000
    assert pair.server.streams == pair.client.streams == 0


def test_what_is_asked_of_a_stream_that_is_gone_does_nothing(pair: Pair) -> None:
    stream = pair.open(POST, False)
    pair.client.reset(stream, CANCEL)
    pair.exchange()
    pair.server.respond(stream, OK, False)
    pair.server.interim(stream, [(b":status", b"103")])
    pair.server.send(stream, b"x", True)
    pair.server.trailers(stream, [(b"a", b"b")])
    pair.server.end(stream)
    pair.server.reset(stream, CANCEL)
    assert pair.server.output() == b"" and pair.server.queued(stream) == 0


def test_no_more_streams_than_the_peer_takes(pair: Pair) -> None:
    few = MESHD.override({"http2_streams": 2})
    pair = Pair(pair_name(pair), server_limits=few)
    assert pair.client.peer_streams == 2
    first = pair.open(POST, False)
    pair.open(POST, False)
    assert not pair.client.can_open
    with pytest.raises(StreamsExhausted):
        pair.client.request(GET, True)
    pair.client.reset(first, CANCEL)
    pair.exchange()
    assert pair.client.can_open


def test_a_notice_stops_new_streams_and_refuses_none(pair: Pair) -> None:
    stream = pair.open()
    pair.server.notice()
    pair.exchange()
    assert pair.at_client.take() == [("goaway", LAST_STREAM, NO_ERROR)]
    assert pair.client.closing and pair.server.closing and not pair.client.can_open
    with pytest.raises(GoingAway):
        pair.client.request(GET, True)
    pair.server.goaway(NO_ERROR)
    pair.server.respond(stream, OK, True)
    pair.exchange()
    assert pair.at_client.take("goaway", "response") == [
        ("goaway", stream, NO_ERROR),
        ("response", stream, OK, True),
    ]
    assert pair.server.finished and pair.client.finished


def test_a_request_that_crosses_a_notice_is_served(pair: Pair) -> None:
    """Also where no other stream is open: the notice refuses nothing."""
    pair.exchange()
    stream = pair.client.request(GET, True)
    request = drain(pair.client)
    pair.server.notice()
    pair.to_client()
    pair.server.receive(request, 0.0)
    assert pair.at_server.take("request") == [("request", stream, GET, True)]
    pair.server.respond(stream, OK, True)
    pair.exchange()
    assert pair.at_client.take("response") == [("response", stream, OK, True)]
    assert not pair.server.finished
    pair.server.goaway(NO_ERROR)
    assert drain(pair.server).endswith(goaway_frame(stream, NO_ERROR))
    assert pair.server.finished


def test_streams_above_a_goaway_were_refused(pair: Pair) -> None:
    first = pair.open()
    second = pair.client.request(GET, True)
    assert drain(pair.client)
    pair.server.goaway(NO_ERROR)
    pair.to_client()
    assert pair.at_client.take() == [
        ("goaway", first, NO_ERROR),
        ("reset", second, REFUSED_STREAM, False),
        ("closed", second),
    ]


def test_a_goaway_with_an_error_ends_the_connection(pair: Pair) -> None:
    pair.open()
    pair.server.goaway(ENHANCE_YOUR_CALM)
    pair.to_client()
    assert pair.at_client.take("goaway") == [("goaway", 1, ENHANCE_YOUR_CALM)]
    assert pair.server.finished


def test_an_invalid_request_costs_its_stream_and_is_counted(pair: Pair) -> None:
    good = pair.open(POST, False)
    pair.at_server.take()
    bad = pair.open([*POST, (b"x", b"a\r\nb")])
    assert pair.at_server.take() == [("limit", "h2_invalid_message")]
    assert pair.at_client.take() == [("reset", bad, PROTOCOL_ERROR, False), ("closed", bad)]
    pair.client.end(good)
    pair.exchange()
    assert pair.at_server.take() == [("data", good, b"", True)]


def test_a_body_that_is_not_its_content_length(pair: Pair) -> None:
    stream = pair.open([*POST, (b"content-length", b"5")], False)
    pair.client.send(stream, b"sixsix", True)
    if pair_name(pair) == "h2":  # which knows no stream errors of this kind
        with pytest.raises(H2Error, match="InvalidBodyLength"):
            pair.exchange()
        return
    pair.exchange()
    calls = pair.at_server.take("reset", "closed", "limit")
    assert calls == [
        ("limit", "h2_invalid_message"),
        ("reset", stream, PROTOCOL_ERROR, True),
        ("closed", stream),
    ]


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_a_body_where_there_is_none(pair: Pair, status: bytes) -> None:
    stream = pair.open(GET)
    pair.server.respond(stream, [(b":status", status)], False)
    pair.exchange()
    pair.at_client.take()
    pair.server.send(stream, b"HTTP/1.1 200 OK", True)
    pair.exchange()
    assert pair.at_client.take("data", "reset", "limit") == [
        ("limit", "h2_invalid_message"),
        ("reset", stream, PROTOCOL_ERROR, True),
    ]


def test_garbage_instead_of_a_preface() -> None:
    for name in ENGINES:
        server, sink = engine_of("server", name)
        drain(server)
        with pytest.raises(H2Error) as error:
            server.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0.0)
        assert error.value.code == PROTOCOL_ERROR and len(sink.take("limit")) == 1
        assert server.output()[3] == 7 and server.output() == b"" and server.finished


def test_a_broken_rule_of_the_connection(pair: Pair) -> None:
    with pytest.raises(H2Error) as error:
        pair.server.receive(b"\0\0\4\x08\0\0\0\0\0\0\0\0\0", 0.0)
    assert error.value.code == PROTOCOL_ERROR
    assert pair.at_server.take("limit") == [("limit", error.value.limit)]
    pair.to_client()
    assert pair.at_client.take("goaway") == [("goaway", 0, PROTOCOL_ERROR)]
    pair.server.receive(b"more", 0.0)
    assert pair.server.finished


def test_extended_connect_is_announced(pair: Pair) -> None:
    assert pair.client.connect_protocol and not pair.server.connect_protocol


def test_a_ping_is_answered(pair: Pair) -> None:
    pair.client.ping(b"12345678")
    pair.to_server()
    assert b"12345678" in pair.server.output()


def test_output_gives_no_more_than_asked_for(pair: Pair) -> None:
    stream = pair.open()
    pair.server.respond(stream, OK, False)
    pair.server.send(stream, bytes(40_000), True)
    pieces = []
    while data := pair.server.output(1000):
        pieces.append(data)
    assert max(map(len, pieces)) == 1000
    for piece in pieces:
        pair.client.receive(piece, 0.0)
    got = b"".join(call[2] for call in pair.at_client.take("data"))  # type: ignore[misc]
    assert got == bytes(40_000)


def test_which_engine_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(engine_of("server", "")[0]).__name__ == "NGH2Engine"
    monkeypatch.setitem(sys.modules, "meshkit.http.h2_ngh2", None)
    assert type(engine_of("server", "")[0]).__name__ == "HyperEngine"
    with pytest.raises(ImportError):
        engine_of("server", "ngh2")
    with pytest.raises(ValueError, match="no such HTTP/2 engine"):
        engine_of("server", "nghttp3")
