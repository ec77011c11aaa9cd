"""Floods of HTTP/2 frames against a real worker, beside good clients.

Each must end with GOAWAY and one count under its name, leave the connections of others
alone, hold little memory, and cost the worker less than a hundred times what it costs
its sender: prebuilt blobs of frames in large writes, again and again on new connections.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from meshkit.http.h2 import ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR
from tests.attack.conftest import PORT, Range
from tests.attack.h2 import Frames, Good, blob, goaway_code, read_end
from tests.attack.raw import dial, resident
from tests.meshd.agent.rig import until
from tests.meshkit.http import h2_wire as wire
from tests.meshkit.http.h2_wire import frame

HOST = f"victim:{PORT}".encode()
GET = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/works"),
    (b":authority", HOST),
]
SECONDS = 0.7
"""For each flood: its CPU is measured in ticks of 10 ms."""
RATIO = 100
MEMORY = 64 << 20
"""What a flood may add: up to 500 connections in `SECONDS`, 60 kB each until their memory is
given back.  It does not grow with further floods: what was given back is used again."""


def get(stream: int, fields: bytes = b"") -> bytes:
    """A request for the victim, as HPACK that no table remembers."""
    authority = b"\x01" + bytes((len(HOST),)) + HOST
    return frame(wire.HEADERS, wire.WHOLE, stream, b"\x82\x86\x84" + authority + fields)


def post(stream: int) -> bytes:
    authority = b"\x01" + bytes((len(HOST),)) + HOST
    return frame(wire.HEADERS, wire.END_HEADERS, stream, b"\x83\x86\x84" + authority)


def lie(stream: int) -> bytes:
    """A request whose body is longer than it said: we must reset it."""
    length = wire.literal(b"content-length", b"5")
    head = frame(wire.HEADERS, wire.END_HEADERS, stream, post(stream)[9:] + length)
    return head + frame(wire.DATA, wire.END_STREAM, stream, b"sixsix")


def odd(i: int) -> int:
    return 2 * i + 1


BIG = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
"""A field of 4,000 bytes, remembered; b"\\xbe" names it again."""

FLOODS: dict[str, tuple[str, int, bytes, Frames]] = {
    "rapid reset": (
        *("h2_rapid_reset", ENHANCE_YOUR_CALM, b""),
        lambda i: get(odd(i)) + wire.reset(odd(i)),
    ),
    "resets of one stream": (
        *("h2_rapid_reset", ENHANCE_YOUR_CALM, get(1) + wire.reset(1)),
        lambda i: wire.reset(1),
    ),
    "malformed requests": (
        *("h2_provoked_resets", ENHANCE_YOUR_CALM, b""),
        lambda i: frame(wire.HEADERS, wire.WHOLE, odd(i), b"\x82\x86\x84"),
    ),
    "resets of ours": ("h2_provoked_resets", ENHANCE_YOUR_CALM, b"", lambda i: lie(odd(i))),
    "ping": ("h2_ping_flood", ENHANCE_YOUR_CALM, b"", lambda i: frame(wire.PING, 0, 0, bytes(8))),
    "answers to pings": (
        *("h2_idle_frames", ENHANCE_YOUR_CALM, b""),
        lambda i: frame(wire.PING, wire.ACK, 0, bytes(8)),
    ),
    "settings": (
        *("h2_settings_flood", ENHANCE_YOUR_CALM, b""),
        lambda i: frame(wire.SETTINGS, 0, 0),
    ),
    "entries of settings": (
        *("h2_settings_flood", ENHANCE_YOUR_CALM, b""),
        lambda i: frame(wire.SETTINGS, 0, 0, b"\0\4\0\0\xff\xff" * 33),
    ),
    "continuation": (
        *("h2_continuation_flood", ENHANCE_YOUR_CALM, b""),
        lambda i: frame(wire.CONTINUATION, 0, 1) if i else frame(wire.HEADERS, 1, 1, b"\x82"),
    ),
    "empty DATA": ("h2_idle_frames", ENHANCE_YOUR_CALM, post(1), lambda i: frame(wire.DATA, 0, 1)),
    "padding": (
        *("h2_idle_frames", ENHANCE_YOUR_CALM, post(1)),
        lambda i: frame(wire.DATA, wire.PADDED, 1, b"\x03" + bytes(3)),
    ),
    "one byte of DATA": (
        *("h2_idle_frames", ENHANCE_YOUR_CALM, post(1)),
        lambda i: frame(wire.DATA, 0, 1, b"x"),
    ),
    "DATA beyond the window": (
        *("h2_protocol_error", FLOW_CONTROL_ERROR, post(1)),
        lambda i: frame(wire.DATA, 0, 1, bytes(40)),
    ),
    "windows of the connection": (
        *("h2_idle_frames", ENHANCE_YOUR_CALM, b""),
        lambda i: frame(wire.WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
    ),
    "windows of a stream": (
        *("h2_idle_frames", ENHANCE_YOUR_CALM, post(1)),
        lambda i: frame(wire.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"),
    ),
    "priorities": (
        *("h2_idle_frames", ENHANCE_YOUR_CALM, b""),
        lambda i: frame(wire.PRIORITY, 0, 9, b"\0\0\0\1\7"),
    ),
    "unknown frames": (
        *("h2_idle_frames", ENHANCE_YOUR_CALM, b""),
        lambda i: frame(wire.UNKNOWN, 0, 0),
    ),
    "a frame too large": (
        *("h2_frame_too_large", FRAME_SIZE_ERROR, post(1)),
        lambda i: frame(wire.DATA, 0, 1, bytes(17000)),
    ),
    "header bombs": (
        *("h2_header_bomb", ENHANCE_YOUR_CALM, get(1, BIG)),
        lambda i: get(odd(i + 1), b"\xbe" * 200),
    ),
}


PIECE = {"malformed requests": 512, "resets of ours": 2048, "DATA beyond the window": 1 << 18}
"""Bytes a write.  More than a hundred streams to be reset in one read are, for nghttp2,
more streams than we take; a window is overrun only by who is faster than its credit."""
PACED = ("malformed requests", "resets of ours")
"""The next write when the last was answered."""


@pytest.fixture(scope="module")
def good(target: Range) -> Iterator[Good]:
    """Somebody else's connection, which lives through all of it."""
    client = Good(target.a.address, target.a.proxy)
    yield client
    client.close()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def hits(target: Range, limit: str) -> float:
    return target.whole.metric("a", "meshd_limit_hits_total", limit=limit)


def attack(target: Range, setup: bytes, data: bytes) -> None:
    """One connection until its end; blobs for as long as they are taken."""
    with suppress(OSError), dial(target.a.address, target.a.proxy) as sock:
        sock.sendall(wire.HELLO + frame(wire.SETTINGS, wire.ACK, 0) + setup)
        while True:
            sock.sendall(data)


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_ended_by_name_and_harms_nobody(target: Range, good: Good, flood: str) -> None:
    limit, code, setup, frames = FLOODS[flood]
    assert good.ask(GET)[0] == 200
    before, received = hits(target, limit), b""
    with dial(target.a.address, target.a.proxy) as sock:
        sock.sendall(wire.HELLO + frame(wire.SETTINGS, wire.ACK, 0) + setup)
        with suppress(OSError):
            # In two reads at least: the first may be within the limits.
            data, piece = blob(frames, 1 << 18), PIECE.get(flood, 1 << 14)
            for start in range(0, len(data), piece):
                sock.sendall(data[start : start + piece])
                if flood in PACED:
                    received += sock.recv(1 << 16)
                else:
                    time.sleep(0.005)
        received += read_end(sock)
    # What was under way may have been reset by the kernel: then nothing can be read.
    assert goaway_code(received) in (code, None)
    until(lambda: hits(target, limit) == before + 1, f"{limit} is counted")
    assert good.ask(GET) == (200, b"ok")


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_costs_its_sender_more_than_a_hundredth(
    target: Range, good: Good, flood: str
) -> None:
    _limit, _code, setup, frames = FLOODS[flood]
    data = blob(frames)
    assert good.ask(GET)[0] == 200
    pid = target.a.pids()[0]
    memory, ours, theirs = resident(pid), time.thread_time(), cpu(pid)
    ends, rounds = time.monotonic() + SECONDS, 0
    while time.monotonic() < ends:
        attack(target, setup, data)
        rounds += 1
    assert good.ask(GET) == (200, b"ok")
    ours, theirs = time.thread_time() - ours, cpu(pid) - theirs
    grown = resident(pid) - memory
    print(f"{flood}: {theirs / ours:.1f} times its CPU, {rounds} rounds, {grown >> 10} KiB")
    assert theirs < RATIO * ours
    assert grown < MEMORY


def slow_resets(target: Range, batch: int) -> float:
    """Requests that are under way when they are reset; returns seconds of our CPU."""
    begun = time.thread_time()
    with suppress(OSError), dial(target.a.address, target.a.proxy) as sock:
        sock.sendall(wire.HELLO + frame(wire.SETTINGS, wire.ACK, 0))
        for start in range(0, 3000, batch):
            streams = [odd(i) for i in range(start, start + batch)]
            sock.sendall(b"".join(map(get, streams)))
            time.sleep(0.003)
            sock.sendall(b"".join(map(wire.reset, streams)))
            time.sleep(0.003)
    return time.thread_time() - begun


def test_requests_reset_when_they_are_under_way(target: Range, good: Good) -> None:
    """The backend has them already: what rapid reset is about, in its worst form."""
    pid, limit = target.a.pids()[0], "h2_rapid_reset"
    theirs, before, ours = cpu(pid), hits(target, limit), 0.0
    for _ in range(5):
        ours += slow_resets(target, 90)
    theirs = cpu(pid) - theirs
    print(f"{theirs / ours:.1f} times its CPU")
    assert theirs < RATIO * ours
    until(lambda: hits(target, limit) > before, f"{limit} is counted")
    assert good.ask(GET) == (200, b"ok")


def test_the_worker_that_was_flooded_is_the_same(target: Range, good: Good) -> None:
    assert good.ask(GET) == (200, b"ok")
    assert target.works() and not target.mistakes()
