"""Frames by hand, for what no well-behaved engine would send (RFC 9113 section 4)."""

from __future__ import annotations

from meshkit.http.h2 import PREFACE

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION, UNKNOWN = 8, 9, 77
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
WHOLE = END_STREAM | END_HEADERS

GET = bytes((0x82, 0x86, 0x84, 0x01, 1)) + b"a"
"""HPACK: GET http / with :authority "a", which no table remembers."""
POST = bytes((0x83,)) + GET[1:]
STATUS_200 = bytes((0x88,))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A field that is not indexed, without Huffman coding; both under 127 bytes."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def get(stream: int, more: bytes = b"") -> bytes:
    return frame(HEADERS, WHOLE, stream, GET + more)


def post(stream: int, more: bytes = b"") -> bytes:
    return frame(HEADERS, END_HEADERS, stream, POST + more)


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4))


HELLO = PREFACE + frame(SETTINGS, 0, 0)
"""What a client begins with, when it has nothing to say."""
