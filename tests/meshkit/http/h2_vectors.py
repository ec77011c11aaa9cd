"""What a server makes of a client's bytes, frame by frame: the wire vectors of HTTP/2.

A vector is a name, frames after the client's first words, and what the sink is told:
``request 1``, ``data 1 5`` (bytes), ``trailers 1``, ``end 1`` (the message is whole),
``reset 1 8`` (code, by the peer), ``broken 1 1`` (by us), ``window``, ``goaway``,
``limit <code>``.  ``error N`` is the end of the connection with that code.  ``(h2)``
begins what the engine on h2 does instead, where it knows no error of a stream.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.meshkit.http.h2_wire import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    UNKNOWN,
    WHOLE,
    WINDOW_UPDATE,
    frame,
    get,
    literal,
    post,
    reset,
)


class Vector(NamedTuple):
    name: str
    frames: bytes
    told: str
    """Calls, separated by commas."""
    h2: str | None = None
    """The same for the engine on h2, where it differs."""


BAD = "limit h2_invalid_message"
PROTOCOL = "limit h2_protocol_error, error 1"
_LENGTH_5 = literal(b"content-length", b"5")

VECTORS = [
    Vector("a request", get(1), "request 1, end 1"),
    Vector("two requests", get(1) + get(3), "request 1, end 1, request 3, end 3"),
    Vector(
        "a body",
        post(1) + frame(DATA, 0, 1, b"hello") + frame(DATA, END_STREAM, 1, b"!"),
        "request 1, data 1 5, data 1 1, end 1",
    ),
    Vector(
        "a body that only ends",
        post(1) + frame(DATA, END_STREAM, 1),
        "request 1, data 1 0, end 1",
    ),
    Vector(
        "a padded body",
        post(1) + frame(DATA, PADDED | END_STREAM, 1, b"\x03abc\0\0\0"),
        "request 1, data 1 3, end 1",
    ),
    Vector(
        "padding as long as its frame",
        post(1) + frame(DATA, PADDED, 1, b"\x04abc"),
        "request 1, " + PROTOCOL,
    ),
    Vector(
        "trailers",
        post(1) + frame(DATA, 0, 1, b"x") + frame(HEADERS, WHOLE, 1, literal(b"a", b"b")),
        "request 1, data 1 1, trailers 1",
    ),
    Vector(
        "trailers that do not end the stream",
        post(1) + frame(HEADERS, END_HEADERS, 1, literal(b"a", b"b")),
        f"request 1, {BAD}, broken 1 1",
        "request 1, " + PROTOCOL,
    ),
    Vector(
        "trailers with a pseudo-field",
        post(1) + frame(HEADERS, WHOLE, 1, literal(b":path", b"/x")),
        f"request 1, {BAD}, broken 1 1",
    ),
    Vector(
        "a head in three frames",
        frame(HEADERS, END_STREAM, 1, GET[:3])
        + frame(CONTINUATION, 0, 1, GET[3:])
        + frame(CONTINUATION, END_HEADERS, 1),
        "request 1, end 1",
    ),
    Vector(
        "a frame inside a head",
        frame(HEADERS, END_STREAM, 1, GET) + frame(PING, 0, 0, bytes(8)),
        PROTOCOL,
    ),
    Vector(
        "a CONTINUATION of another stream",
        frame(HEADERS, END_STREAM, 1, GET) + frame(CONTINUATION, END_HEADERS, 3),
        PROTOCOL,
    ),
    Vector("a CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, GET), PROTOCOL),
    Vector(
        "a head that is no HPACK", frame(HEADERS, WHOLE, 1, b"\xff" * 8), "compression", PROTOCOL
    ),
    Vector("an index beyond the table", frame(HEADERS, WHOLE, 1, b"\xfe"), "compression", PROTOCOL),
    Vector("an even stream", get(2), PROTOCOL),
    Vector("stream 0", get(0), PROTOCOL),
    Vector("an older stream that never was", get(5) + get(3), "request 5, end 5", "stale"),
    Vector("DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
    Vector("DATA on a stream that never was", frame(DATA, 0, 1, b"x"), PROTOCOL),
    Vector(
        "DATA after the end",
        get(1) + frame(DATA, 0, 1, b"x"),
        "request 1, end 1, limit h2_protocol_error, error 5",
        f"request 1, end 1, {BAD}, broken 1 5",
    ),
    Vector("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + GET), PROTOCOL),
    Vector("a reset", post(1) + frame(PING, 0, 0, bytes(8)), "request 1"),
    Vector("a reset of a stream that never was", reset(1), PROTOCOL),
    Vector("a reset of stream 0", reset(0), PROTOCOL),
    Vector("a reset of the wrong size", frame(3, 0, 1, b"x"), "limit h2_protocol_error, error 6"),
    Vector(
        "a window of nothing",
        post(1) + frame(WINDOW_UPDATE, 0, 1, bytes(4)),
        "request 1, " + PROTOCOL,
    ),
    Vector("a connection's window of nothing", frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
    Vector(
        "a stream's window beyond 2^31",
        post(1) + frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"),
        "request 1, limit h2_protocol_error, error 3",
        f"request 1, {BAD}, broken 1 3",
    ),
    Vector(
        "the connection's window beyond 2^31",
        frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
        "limit h2_protocol_error, error 3",
    ),
    Vector("a window", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\5"), "window"),
    Vector("settings", frame(SETTINGS, 0, 0, b"\0\4\0\1\0\0"), "settings, window"),
    Vector("unknown settings", frame(SETTINGS, 0, 0, b"\xff\4\0\1\0\0"), "settings"),
    Vector(
        "an impossible window",
        frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
        "limit h2_protocol_error, error 3",
    ),
    Vector("settings of a stream", frame(SETTINGS, 0, 1), PROTOCOL),
    Vector(
        "settings of the wrong size",
        frame(SETTINGS, 0, 0, b"x"),
        "limit h2_protocol_error, error 6",
    ),
    Vector("an unknown frame", frame(UNKNOWN, 0xFF, 7, b"what") + get(1), "request 1, end 1"),
    Vector("a priority", frame(PRIORITY, 0, 3, b"\0\0\0\1\7") + get(1), "request 1, end 1"),
    Vector("a ping and its answer's echo", frame(PING, ACK, 0, bytes(8)), ""),
    Vector(
        "the client goes",
        get(1) + frame(GOAWAY, 0, 0, bytes(8)),
        "request 1, end 1, goaway",
    ),
    Vector("no path", frame(HEADERS, WHOLE, 1, b"\x82\x86\x01\x01a"), BAD),
    Vector("an upper-case name", get(1, literal(b"Foo", b"x")), BAD),
    Vector("a name with a line end", get(1, literal(b"a\r\nb", b"x")), BAD),
    Vector("a value with a line end", get(1, literal(b"a", b"x\r\ny: z")), BAD),
    Vector("a connection field", get(1, literal(b"connection", b"close")), BAD),
    Vector("a transfer coding", get(1, literal(b"transfer-encoding", b"chunked")), BAD),
    Vector("TE: trailers", get(1, literal(b"te", b"trailers")), "request 1, end 1"),
    Vector("TE: gzip", get(1, literal(b"te", b"gzip")), BAD),
    Vector("a pseudo-field of responses", get(1, literal(b":status", b"200")), BAD),
    Vector("a late pseudo-field", get(1, literal(b"a", b"b") + literal(b":path", b"/")), BAD),
    Vector("a path twice", get(1, literal(b":path", b"/x")), BAD),
    Vector("cookie crumbs", get(1, literal(b"cookie", b"a=1") * 2), "request 1, end 1"),
    Vector("a length and its bytes", post(1, _LENGTH_5) + frame(DATA, 1, 1, b"12345"), "length"),
    Vector("a length and no body", get(1, _LENGTH_5), BAD),
    Vector(
        "a length and more bytes",
        post(1, _LENGTH_5) + frame(DATA, END_STREAM, 1, b"123456"),
        f"request 1, {BAD}, broken 1 1",
        "request 1, " + PROTOCOL,
    ),
    Vector("a length that is none", get(1, literal(b"content-length", b"+0")), BAD, PROTOCOL),
    Vector("extended CONNECT", frame(HEADERS, END_HEADERS, 1, POST), "request 1"),
]
