"""Header fields: one strict grammar, and a memory of the lines already judged.

A field line is ``token ":" OWS value OWS`` with visible characters, spaces,
tabs and obs-text in the value (RFC 9110 section 5.5, RFC 9112 section 5).  The
head was split at CRLF before, so a CR, LF or NUL that is still in a line, a
space before the colon or a folded line (it begins with a space) cannot match,
and is refused.

Why a memory.  Most lines of a connection were seen a moment ago: host,
user-agent, accept, content-type.  `FieldTable` maps a whole line to its parsed
form, so that such a line costs one dict lookup (60 ns) instead of a parse
(500 ns).  What is new in every request (ids, dates) and what is secret
(credentials, cookies) is never remembered, nor is a long line; the table is
bounded and starts afresh when full, so a client that sends garbage makes
others pay one parse a line, and no memory beyond the bound.

An ordinary field is ``(name, value)``, name in lower case.  A field that means
something to a proxy has a third item, its code from this module: framing and
connection fields never reach the list that is forwarded.
"""

from __future__ import annotations

import re

Field = tuple[bytes, bytes]
Parsed = tuple[bytes, bytes] | tuple[bytes, bytes, int]

HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION = 1, 2, 3, 4
UPGRADE, EXPECT, TE, HOP, KEEP_ALIVE = 5, 6, 7, 8, 9
_ORDINARY, _UNIQUE = 0, -1

_CODES: dict[bytes, int] = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"te": TE,
    b"keep-alive": HOP,
    b"http2-settings": HOP,
    b"authorization": _UNIQUE,
    b"cookie": _UNIQUE,
    b"set-cookie": _UNIQUE,
    b"x-request-id": _UNIQUE,
    b"traceparent": _UNIQUE,
    b"tracestate": _UNIQUE,
    b"b3": _UNIQUE,
    b"x-b3-traceid": _UNIQUE,
    b"x-b3-spanid": _UNIQUE,
    b"x-b3-parentspanid": _UNIQUE,
    b"idempotency-key": _UNIQUE,
    b"etag": _UNIQUE,
    b"if-none-match": _UNIQUE,
    b"x-api-key": _UNIQUE,
}

PROTECTED = frozenset(
    (
        *(b"host", b"content-length", b"transfer-encoding", b"te", b"trailer", b"connection"),
        *(b"keep-alive", b"upgrade", b"expect", b"http2-settings", b"proxy-connection"),
        *(b"proxy-authenticate", b"proxy-authorization", b"authorization", b"cookie"),
        *(b"set-cookie", b"www-authenticate", b"content-encoding", b"content-type"),
        *(b"content-range", b"cache-control", b"max-forwards", b"range", b"location"),
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
        *(b"x-forwarded-client-cert", b"x-real-ip", b"x-request-id", b"traceparent"),
        *(b"x-baremesh-source", b"x-baremesh-destination"),
    )
)
"""Framing, routing and authentication names: dropped from trailers (RFC 9110
section 6.5.1), and never removed because a ``Connection`` field lists them."""

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(TOKEN)
VALUE_BYTES = bytes((9, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""What a field value may hold; ``value.translate(None, VALUE_BYTES)`` is what it may not."""

_LINE_BYTES = 256
"""A longer line is seldom repeated, and would make the table's memory large."""
_TABLE_LINES = 2048
"""Lines remembered: at most about 1.5 MB a worker."""
_TABLE_NAMES = 1024


class BadField(ValueError):
    """A line that is no header field; the text says what is wrong with it."""


class FieldTable(dict[bytes, Parsed]):
    """``table[line]`` → the parsed field; raises `BadField`.  One serves a worker."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[bytes, tuple[bytes, int]] = {}

    def __missing__(self, line: bytes) -> Parsed:
        raw, colon, value = line.partition(b":")
        known = self._names.get(raw) or self._learn(raw)
        if not colon:
            raise BadField("a header line without a colon")
        if value.translate(None, VALUE_BYTES):
            raise BadField("a control character in a header value")
        name, code = known
        value = value.strip(b" \t")
        if code == CONNECTION and value.lower() == b"keep-alive":
            code = KEEP_ALIVE  # nearly all Connection fields, and they change next to nothing
        field: Parsed = (name, value) if code <= 0 else (name, value, code)
        if code != _UNIQUE and len(line) <= _LINE_BYTES:
            if len(self) >= _TABLE_LINES:
                self.clear()
            self[line] = field
        return field

    def _learn(self, raw: bytes) -> tuple[bytes, int]:
        if _NAME.fullmatch(raw) is None:
            raise BadField("a header name that is not a token")
        name = raw.lower()
        code = HOP if name.startswith(b"proxy-") else _CODES.get(name, _ORDINARY)
        known = (name, code)
        if len(self._names) < _TABLE_NAMES and len(raw) <= _LINE_BYTES:
            self._names[raw] = known
        return known
