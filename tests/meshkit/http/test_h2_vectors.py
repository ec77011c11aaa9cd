"""The wire vectors on both engines: whole, byte by byte, in halves, and with a tail."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.http.h2 import H2Error
from tests.meshkit.http import h2_wire as wire
from tests.meshkit.http.h2_pair import Call, drain, engine_of
from tests.meshkit.http.h2_vectors import VECTORS, Vector
from tests.meshkit.http.h2_wire import frame

SHORT = {
    "compression": "limit h2_protocol_error, error 9",
    "stale": "request 5, end 5, limit h2_protocol_error, error 1",
    "length": "request 1, data 1 5, end 1",
}
TAIL = 99


def words(call: Call) -> list[str]:
    """A call of the sink as a vector says it."""
    name, stream = call[0], call[1] if len(call) > 1 else ""
    if name == "request":
        return [f"request {stream}", *([f"end {stream}"] if call[3] else [])]
    if name == "data":
        size = len(call[2])  # type: ignore[arg-type]
        return [f"data {stream} {size}", *([f"end {stream}"] if call[3] else [])]
    if name == "reset":
        return [f"{'broken' if call[3] else 'reset'} {stream} {call[2]}"]
    if name in ("trailers", "limit"):
        return [f"{name} {stream}"]
    return [] if name == "closed" else [str(name)]


def kinds(data: bytes) -> list[int]:
    """The types of the frames in ``data``, which must be whole."""
    found, pos = [], 0
    while pos < len(data):
        found.append(data[pos + 3])
        pos += 9 + int.from_bytes(data[pos : pos + 3])
    assert pos == len(data)
    return found


def play(name: str, data: bytes, step: int, tail: bytes = b"") -> list[str]:
    """What a server is told, and how its connection ended."""
    server, sink = engine_of("server", name)
    server.receive(wire.HELLO, 0.0)
    drain(server)
    server.receive(wire.frame(wire.SETTINGS, wire.ACK, 0), 0.0)
    sink.take()
    end = []
    out = b""
    try:
        for i in range(0, len(data), step):
            server.receive(data[i : i + step], 0.0)
            out += drain(server)
        if tail:
            server.receive(tail, 0.0)
    except H2Error as error:
        end = [f"error {error.code}"]
    assert not end or wire.GOAWAY in kinds(out + drain(server))
    return [word for call in sink.take() for word in words(call)] + end


def told(vector: Vector, name: str) -> list[str]:
    text = vector.told if name == "ngh2" or vector.h2 is None else vector.h2
    text = SHORT.get(text, text)
    return text.split(", ") if text else []


@pytest.mark.parametrize("cut", ["whole", "bytes", "halves"])
@pytest.mark.parametrize("name", ["ngh2", "h2"])
@pytest.mark.parametrize("vector", VECTORS, ids=[v.name for v in VECTORS])
def test_vector(vector: Vector, name: str, cut: str) -> None:
    size = len(vector.frames)
    step = {"whole": size, "bytes": 1, "halves": size // 2 + 1}[cut]
    assert play(name, vector.frames, step) == told(vector, name)


@pytest.mark.parametrize("name", ["ngh2", "h2"])
@pytest.mark.parametrize("vector", VECTORS, ids=[v.name for v in VECTORS])
def test_vector_with_a_tail(vector: Vector, name: str) -> None:
    """After anything that ended no connection, the next request is served."""
    want = told(vector, name)
    if not any(word.startswith("error") for word in want):
        want += [f"request {TAIL}", f"end {TAIL}"]
    assert play(name, vector.frames, len(vector.frames), wire.get(TAIL)) == want


# The engines against each other, on frames that nobody thought of.

_stream = st.sampled_from([1, 1, 3, 5])
_field = st.sampled_from(
    [
        wire.literal(b"a", b"b"),
        wire.literal(b"cookie", b"x=1"),
        wire.literal(b"te", b"trailers"),
        wire.literal(b"te", b"gzip"),
        wire.literal(b"A", b"b"),
        wire.literal(b"a", b"b\r"),
        wire.literal(b"connection", b"x"),
        wire.literal(b":path", b"/twice"),
        wire.literal(b"host", b"a"),
        b"\x40\x01k\x01v",
        b"\x82",
    ]
)
_fields = st.lists(_field, max_size=3).map(b"".join)
_head = st.builds(
    lambda stream, end, base, fields: frame(
        wire.HEADERS, end | wire.END_HEADERS, stream, base + fields
    ),
    _stream,
    st.sampled_from([0, 1]),
    st.sampled_from([wire.GET, wire.POST, wire.GET[:2], b""]),
    _fields,
)
_data = st.builds(
    lambda stream, end, body: frame(wire.DATA, end, stream, body),
    _stream,
    st.sampled_from([0, 1]),
    st.binary(max_size=20),
)
_other = st.builds(
    frame,
    st.sampled_from([wire.PRIORITY, wire.SETTINGS, wire.PING, wire.WINDOW_UPDATE, wire.UNKNOWN]),
    st.sampled_from([0, 1]),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([b"", bytes(3) + b"\5", bytes(5), bytes(6), bytes(8)]),
)
_reset = st.builds(wire.reset, _stream, st.sampled_from([0, 8]))
_frames = st.lists(st.one_of(_head, _data, _other, _reset), max_size=8)


def is_fault(word: str) -> bool:
    return word.split()[0] in ("limit", "broken", "error")


def until_first_fault(calls: list[str]) -> list[str]:
    """What was told before anything broke: after it, the engines end at different points."""
    for i, word in enumerate(calls):
        if is_fault(word):
            return calls[:i]
    return calls


@settings(max_examples=200, deadline=None)
@given(_frames)
def test_both_engines_tell_the_same_until_something_is_wrong(frames: list[bytes]) -> None:
    """And what one takes for valid to its end, the other does, too."""
    data = b"".join(frames)
    ours, theirs = (play(name, data, len(data) or 1) for name in ("ngh2", "h2"))
    first, second = until_first_fault(ours), until_first_fault(theirs)
    shorter = min(len(first), len(second))
    assert first[:shorter] == second[:shorter]
    if first == ours and second == theirs:
        assert ours == theirs


@settings(max_examples=200, deadline=None)
@given(_frames, st.sampled_from(["ngh2", "h2"]), st.integers(1, 40))
def test_however_the_bytes_are_cut_the_sink_is_told_the_same(
    frames: list[bytes], name: str, step: int
) -> None:
    """Up to the first fault: nghttp2 resets as it writes, so what follows a fault in the
    same read meets a stream that still is."""
    data = b"".join(f for f in frames if f[3] != wire.RST_STREAM)
    cut, whole = play(name, data, step), play(name, data, len(data) or 1)
    good = until_first_fault(cut)
    if good == cut:
        assert cut == whole
    else:
        assert until_first_fault(whole) != whole
        assert [w for w in whole if not is_fault(w)][: len(good)] == good
