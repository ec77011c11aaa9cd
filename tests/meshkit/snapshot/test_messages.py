"""The agent-worker protocol: however the bytes are cut, the same frames."""

from __future__ import annotations

import json
import struct

import pytest

from meshkit.snapshot import messages
from meshkit.snapshot.messages import FrameError, FrameReader

ALL = {
    "hello": messages.hello(
        index=0, pid=7, version="0.1", revision="r", listeners=["mesh"], blobs=["h"]
    ),
    "need": messages.need("r", ["h"]),
    "ack": messages.ack("r"),
    "refuse": messages.refuse("r", "because"),
    "pong": messages.pong(1, revision="r", connections=2, fibers=3),
    "drained": messages.drained(),
    "log": messages.log("info", "started", port=1),
    "listener": messages.listener("mesh", lent=True),
    "close": messages.close("mesh"),
    "map": messages.snapshot_map("r", "h", full=True, put={"a": {"b": "c"}}, remove={"a": ["d"]}),
    "blob": messages.blob("h", b"\x00\xff body"),
    "keys": messages.keys("spiffe://td/ns/a/sa/b"),
    "roots": messages.roots({"td": "PEM"}),
    "accesslog": messages.access_log(),
    "ping": messages.ping(9),
    "drain": messages.drain(45),
    "stop": messages.stop(),
}


def raw(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("!II", len(text), len(body)) + text + body


def test_every_type_has_a_constructor_and_a_field_table() -> None:
    assert ALL.keys() == messages.FIELDS.keys()


@pytest.mark.parametrize("name", ALL)
def test_whole_byte_by_byte_and_with_a_tail(name: str) -> None:
    data = ALL[name]
    (whole,) = FrameReader().feed(data)
    assert whole.type == name
    slow = FrameReader()
    pieces = [frame for byte in data for frame in slow.feed(bytes([byte]))]
    assert pieces == [whole]
    tailed = FrameReader()
    assert tailed.feed(data + ALL["stop"][:5]) == [whole]
    assert [frame.type for frame in tailed.feed(ALL["stop"][5:])] == ["stop"]


def test_counts_of_descriptors() -> None:
    counts = {name: FrameReader().feed(data)[0].fds for name, data in ALL.items()}
    assert {name: n for name, n in counts.items() if n} == {
        "hello": 1,
        "listener": 1,
        "keys": 2,
        "accesslog": 1,
    }


def test_details_of_a_log_cannot_change_its_type() -> None:
    (frame,) = FrameReader().feed(messages.log("info", "x", type="stop"))
    assert frame.type == "log"


def test_an_unknown_type_is_handed_on() -> None:
    (frame,) = FrameReader().feed(raw({"type": "tomorrow", "x": 1}))
    assert frame.type == "tomorrow"


@pytest.mark.parametrize(
    "data",
    [
        raw([]),
        raw({"no": "type"}),
        raw({"type": 1}),
        raw({"type": "ack"}),
        raw({"type": "ack", "revision": 1}),
        raw({"type": "ping", "id": True}),
        raw({"type": "stop", "fds": -1}),
        raw({"type": "stop", "fds": "1"}),
        struct.pack("!II", 1, 0) + b"{",
        struct.pack("!II", messages.MAX_HEADER + 1, 0),
        struct.pack("!II", 2, messages.MAX_BODY + 1),
    ],
)
def test_what_is_not_the_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(data)


def test_a_body_over_the_limit_is_not_sent() -> None:
    with pytest.raises(FrameError, match="limit"):
        messages.blob("h", bytes(messages.MAX_BODY + 1))
