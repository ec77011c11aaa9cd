"""Floods: what ends a connection, under which name, and what real peers may do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshkit.http.h2 import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Engine,
    H2Error,
    settings_of,
)
from meshkit.http.h2_guard import Guard
from meshkit.http.limits import GATEWAY, MESHD, Limits
from tests.meshkit.http import h2_wire as wire
from tests.meshkit.http.h2_pair import Pair, Recorder, drain, engine_of
from tests.meshkit.http.h2_wire import frame

ENGINES = ["ngh2", "h2"]
Frames = Callable[[int], bytes]


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def server_of(name: str, limits: Limits = MESHD) -> tuple[Engine, Recorder]:
    """A server after the first words of both sides."""
    server, sink = engine_of("server", name, limits)
    server.receive(wire.HELLO, 0.0)
    drain(server)
    server.receive(frame(wire.SETTINGS, wire.ACK, 0), 0.0)
    sink.take()
    return server, sink


FLOODS: dict[str, tuple[str, bytes, Frames]] = {
    "ping": ("h2_ping_flood", b"", lambda i: frame(wire.PING, 0, 0, bytes(8))),
    "settings": ("h2_settings_flood", b"", lambda i: frame(wire.SETTINGS, 0, 0)),
    "priority": ("h2_idle_frames", b"", lambda i: frame(wire.PRIORITY, 0, 99, bytes(5))),
    "unknown": ("h2_idle_frames", b"", lambda i: frame(wire.UNKNOWN, 0, 0)),
    "ping acks": ("h2_idle_frames", b"", lambda i: frame(wire.PING, 1, 0, bytes(8))),
    "windows": (
        "h2_idle_frames",
        b"",
        lambda i: frame(wire.WINDOW_UPDATE, 0, 0, (1).to_bytes(4)),
    ),
    "window of a stream": (
        "h2_idle_frames",
        wire.post(1),
        lambda i: frame(wire.WINDOW_UPDATE, 0, 1, (1).to_bytes(4)),
    ),
    "empty DATA": ("h2_idle_frames", wire.post(1), lambda i: frame(wire.DATA, 0, 1)),
    "tiny DATA": ("h2_idle_frames", wire.post(1), lambda i: frame(wire.DATA, 0, 1, b"x")),
    "padding only": (
        "h2_idle_frames",
        wire.post(1),
        lambda i: frame(wire.DATA, wire.PADDED, 1, b"\x05" + bytes(5)),
    ),
    "resets": ("h2_rapid_reset", b"", lambda i: wire.get(2 * i + 1) + wire.reset(2 * i + 1)),
    "resets of one stream": (
        "h2_rapid_reset",
        wire.get(1) + wire.reset(1),
        lambda i: wire.reset(1),
    ),
    "resets without an error": (
        "h2_rapid_reset",
        b"",
        lambda i: wire.get(2 * i + 1) + wire.reset(2 * i + 1, NO_ERROR),
    ),
    "malformed requests": (
        "h2_provoked_resets",
        b"",
        lambda i: frame(wire.HEADERS, wire.WHOLE, 2 * i + 1, wire.GET[:3]),
    ),
    "bytes after the end": (
        "h2_provoked_resets",
        b"",
        lambda i: wire.post(2 * i + 1, wire.literal(b"x y", b"")),
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection_and_is_counted_once(name: str, flood: str) -> None:
    limit, setup, frames = FLOODS[flood]
    server, sink = server_of(name)
    if setup:
        server.receive(setup, 0.0)
    out = b""
    with pytest.raises(H2Error) as error:
        for start in range(0, 4000, 80):
            server.receive(b"".join(map(frames, range(start, start + 80))), 0.0)
            out += drain(server)
    assert (error.value.code, error.value.limit) == (ENHANCE_YOUR_CALM, limit)
    counted = [call for call in sink.take("limit") if call != ("limit", "h2_invalid_message")]
    assert counted == [("limit", limit)]
    goaway = (out + drain(server))[-17:]
    assert goaway[3] == wire.GOAWAY and int.from_bytes(goaway[13:]) == ENHANCE_YOUR_CALM
    assert server.finished and server.closing


@pytest.mark.parametrize("flood", [f for f in FLOODS if "malformed" not in f and "after" not in f])
def test_a_flood_in_one_read_is_not_even_processed(name: str, flood: str) -> None:
    _limit, setup, frames = FLOODS[flood]
    server, sink = server_of(name)
    if setup:
        server.receive(setup, 0.0)
    sink.take()
    with pytest.raises(H2Error):
        server.receive(b"".join(map(frames, range(4000))), 0.0)
    assert [call[0] for call in sink.take()] == ["limit"]


@pytest.mark.parametrize("flood", ["ping", "settings", "windows", "empty DATA", "resets"])
def test_the_same_frames_in_good_time_are_fine(name: str, flood: str) -> None:
    _limit, setup, frames = FLOODS[flood]
    server, _sink = server_of(name)
    if setup:
        server.receive(setup, 0.0)
    for i in range(1200):
        server.receive(frames(i), float(i))
        drain(server)


def test_the_buckets_of_a_gateway_are_smaller(name: str) -> None:
    server, sink = server_of(name, GATEWAY)
    flood = FLOODS["resets"][2]
    for i in range(GATEWAY.http2_resets_burst):
        server.receive(flood(i), 0.0)
        drain(server)
    assert not sink.take("limit")
    with pytest.raises(H2Error):
        server.receive(flood(5000), 0.0)


def test_resets_among_completed_streams_never_fill_the_bucket(name: str) -> None:
    """One caller in three gives up: a busy peer, not a hostile one."""
    server, sink = server_of(name, GATEWAY)
    sink.then = lambda call: call[0] == "request" and call[3] and answer(server, call[1])
    for i in range(1000):
        first = 6 * i + 1
        good = wire.get(first) + wire.get(first + 2)
        server.receive(good + wire.post(first + 4), 0.0)
        drain(server)
        server.receive(wire.reset(first + 4), 0.0)
    assert not sink.take("limit")


def answer(server: Engine, stream: object) -> None:
    assert isinstance(stream, int)
    server.respond(stream, [(b":status", b"204")], True)


def test_a_stream_reset_in_the_read_that_opened_it_is_never_told(name: str) -> None:
    server, sink = server_of(name)
    server.receive(wire.get(1) + wire.get(3) + wire.reset(1), 0.0)
    drain(server)
    assert [call[:2] for call in sink.take()] == [("request", 3)]
    server.receive(wire.reset(3), 1.0)
    drain(server)
    assert sink.take() == [("reset", 3, CANCEL, False), ("closed", 3)]
    assert server.streams == 0


def test_resets_that_blame_the_peer_are_counted(name: str) -> None:
    server, sink = server_of(name, GATEWAY)
    with pytest.raises(H2Error) as error:
        for i in range(300):
            stream = 2 * i + 1
            server.receive(wire.post(stream), 0.0)
            server.reset(stream, PROTOCOL_ERROR)
            drain(server)
    assert error.value.limit == "h2_provoked_resets"
    assert sink.take("limit") == [("limit", "h2_provoked_resets")]


def test_resets_that_do_not_blame_it_are_not(name: str) -> None:
    server, sink = server_of(name, GATEWAY)
    for i in range(300):
        server.receive(wire.post(2 * i + 1), 0.0)
        server.reset(2 * i + 1, (CANCEL, REFUSED_STREAM, INTERNAL_ERROR, NO_ERROR)[i % 4])
        drain(server)
    assert not sink.take("limit")


def test_refused_messages_can_be_blamed_on_the_peer(name: str) -> None:
    server, _sink = server_of(name, GATEWAY)
    for _ in range(GATEWAY.http2_resets_burst + 1):
        server.blame()
    with pytest.raises(H2Error):
        server.receive(b"", 0.0)


@pytest.mark.parametrize(("continuations", "fine"), [(8, True), (9, False)])
def test_continuations(name: str, continuations: int, fine: bool) -> None:
    frames = [frame(wire.HEADERS, wire.END_STREAM, 1, wire.GET)]
    frames += [frame(wire.CONTINUATION, 0, 1, wire.literal(b"a", b"b"))] * (continuations - 1)
    frames += [frame(wire.CONTINUATION, wire.END_HEADERS, 1)]
    for step in (100_000, 1):
        server, sink = server_of(name)
        data = b"".join(frames)
        try:
            for i in range(0, len(data), step):
                server.receive(data[i : i + step], 0.0)
            assert fine and len(sink.take("request")) == 1
        except H2Error as error:
            assert not fine
            assert (error.code, error.limit) == (ENHANCE_YOUR_CALM, "h2_continuation_flood")


def test_entries_of_a_settings_frame(name: str) -> None:
    server, _sink = server_of(name)
    entry = b"\0\4" + (65535).to_bytes(4)
    server.receive(frame(wire.SETTINGS, 0, 0, entry * 32), 0.0)
    with pytest.raises(H2Error) as error:
        server.receive(frame(wire.SETTINGS, 0, 0, entry * 33), 0.0)
    assert error.value.limit == "h2_settings_flood"


def test_a_frame_that_is_too_large(name: str) -> None:
    server, sink = server_of(name)
    server.receive(wire.post(1) + frame(wire.DATA, 0, 1, bytes(16384)), 0.0)
    with pytest.raises(H2Error) as error:
        server.receive(frame(wire.DATA, 0, 1, bytes(16385))[:9], 0.0)
    assert (error.value.code, error.value.limit) == (FRAME_SIZE_ERROR, "h2_frame_too_large")
    assert sink.take("limit") == [("limit", "h2_frame_too_large")]


def test_a_header_bomb_ends_the_connection(name: str) -> None:
    """4 kB in the table, named again and again by one byte."""
    big = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
    server, sink = server_of(name)
    server.receive(frame(wire.HEADERS, wire.WHOLE, 1, wire.GET + big + b"\xbe" * 10), 0.0)
    assert len(sink.take("request")) == 1
    with pytest.raises(H2Error) as error:
        server.receive(frame(wire.HEADERS, wire.WHOLE, 3, wire.GET + b"\xbe" * 200), 0.0)
    assert (error.value.code, error.value.limit) == (ENHANCE_YOUR_CALM, "h2_header_bomb")


def test_a_list_over_our_limit_but_no_bomb_reaches_the_sink(name: str) -> None:
    """It is answered with 431 there; the connection lives."""
    server, sink = server_of(name)
    fields = b"".join(wire.literal(b"x%d" % i, b"y") for i in range(120))
    server.receive(frame(wire.HEADERS, wire.WHOLE, 1, wire.GET + fields), 0.0)
    assert len(sink.take("request")) == 1


def test_too_many_fields_end_the_connection(name: str) -> None:
    server, _sink = server_of(name)
    fields = b"".join(wire.literal(b"x%d" % i, b"y") for i in range(220))
    with pytest.raises(H2Error) as error:
        server.receive(frame(wire.HEADERS, wire.WHOLE, 1, wire.GET + fields), 0.0)
    assert error.value.limit == "h2_header_bomb"


def test_endless_interim_responses_cost_their_stream(name: str) -> None:
    pair = Pair(name)
    stream = pair.open()
    for _ in range(MESHD.interim_responses + 1):
        pair.server.interim(stream, [(b":status", b"103")])
    pair.exchange()
    calls = pair.at_client.take("interim", "limit", "reset", "closed")
    assert [call[0] for call in calls[-3:]] == ["limit", "reset", "closed"]
    assert len(calls) == MESHD.interim_responses + 3
    assert pair.at_server.take("reset") == [("reset", stream, ENHANCE_YOUR_CALM, False)]


def test_answers_that_nobody_reads(name: str) -> None:
    limits = MESHD.override({"http2_control_frames": 50, "http2_control_bytes": 850})
    server, sink = server_of(name, limits)
    with pytest.raises(H2Error) as error:
        for i in range(1200):
            server.receive(frame(wire.PING, 0, 0, bytes(8)), float(i))
    assert error.value.limit == "h2_control_flood"
    assert sink.take("limit") == [("limit", "h2_control_flood")]


def guard_of(limits: Limits = MESHD) -> Guard:
    guard = Guard("server", settings_of(limits, "server"))
    assert guard.feed(wire.HELLO, 0.0) == wire.HELLO
    return guard


def test_small_messages_of_a_stream_become_few_frames() -> None:
    """gRPC streams of tiny messages are legitimate, and must not cost an event each."""
    guard = guard_of()
    message = frame(wire.DATA, 0, 1, b"\0\0\0\0\2hi")
    merged = guard.feed(wire.post(1) + message * 400 + wire.get(3), 0.0)
    assert merged == wire.post(1) + frame(wire.DATA, 0, 1, b"\0\0\0\0\2hi" * 400) + wire.get(3)


def test_merging_keeps_streams_ends_and_halves_apart() -> None:
    guard = guard_of()
    parts = [frame(wire.DATA, 0, s, b"x" * 10) for s in (1, 1, 3, 3, 1)] * 10
    parts += [frame(wire.DATA, wire.END_STREAM, 1, b"end"), frame(wire.DATA, 0, 3, b"y" * 20)]
    data = b"".join(parts)
    merged = guard.feed(data[:-5], 0.0) + guard.feed(data[-5:], 0.0)
    assert merged.endswith(parts[-2] + parts[-1])
    bodies = {1: b"", 3: b""}
    pos = 0
    while pos < len(merged):
        end = pos + 9 + int.from_bytes(merged[pos : pos + 3])
        bodies[int.from_bytes(merged[pos + 5 : pos + 9])] += merged[pos + 9 : end]
        pos = end
    assert bodies == {1: b"x" * 300 + b"end", 3: b"x" * 200 + b"y" * 20}
    assert len(merged) < len(data)


def test_a_stream_of_small_messages_is_no_flood(name: str) -> None:
    server, sink = server_of(name)
    server.receive(wire.post(1), 0.0)
    message = frame(wire.DATA, 0, 1, b"\0\0\0\0\2hi") * 2000
    for _ in range(50):
        server.receive(message, 0.0)
        got = sum(len(call[2]) for call in sink.take("data"))  # type: ignore[arg-type]
        assert got == 14_000
        server.taken(1, got)
        drain(server)


def test_windows_opened_as_data_flows_are_no_flood(name: str) -> None:
    """A client that opens both windows for every DATA frame it gets."""
    server, sink = server_of(name)
    server.receive(wire.get(1), 0.0)
    server.respond(1, [(b":status", b"200")], False)
    update = (100).to_bytes(4)
    both = frame(wire.WINDOW_UPDATE, 0, 0, update) + frame(wire.WINDOW_UPDATE, 0, 1, update)
    for _ in range(300):
        for _ in range(20):
            server.send(1, bytes(100), False)
            drain(server)
        server.receive(both * 20, 0.0)
    assert not sink.take("limit")


def test_pings_of_a_client_that_measures_its_downloads_are_no_flood(name: str) -> None:
    server, sink = server_of(name)
    server.receive(wire.get(1), 0.0)
    server.respond(1, [(b":status", b"200")], False)
    update = frame(wire.WINDOW_UPDATE, 0, 0, (100).to_bytes(4))
    update += frame(wire.WINDOW_UPDATE, 0, 1, (100).to_bytes(4))
    for _ in range(1000):
        server.send(1, bytes(100), False)
        drain(server)
        server.receive(frame(wire.PING, 0, 0, bytes(8)) + update, 0.0)
    assert not sink.take("limit")


def test_a_server_may_end_every_early_answer_with_a_reset() -> None:
    guard = Guard("client", settings_of(GATEWAY, "client"))
    for i in range(1000):
        guard.feed(wire.reset(2 * i + 1, NO_ERROR), 0.0)
    with pytest.raises(H2Error):
        for i in range(1000):
            guard.feed(wire.reset(2 * i + 1, CANCEL), 0.0)


def test_nothing_handed_on_ends_inside_a_frame_header() -> None:
    guard = guard_of()
    data = wire.get(1) + frame(wire.PING, 0, 0, b"12345678") + wire.post(3)
    out = [guard.feed(data[i : i + 1], 0.0) for i in range(len(data))]
    assert b"".join(out) == data
    assert [len(piece) for piece in out[:10]] == [0] * 8 + [9, 1]
