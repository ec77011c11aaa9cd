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
something to a proxy becomes a `Special`: framing and connection fields never
reach the list that is forwarded.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Field = tuple[bytes, bytes]

HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION = 1, 2, 3, 4
UPGRADE, EXPECT, TE, HOP, KEEP_ALIVE = 5, 6, 7, 8, 9
SOURCE, DESTINATION, CLIENT_CERT = 10, 11, 12
"""What meshd itself sets: never forwarded as received, so set aside here for free."""
_ORDINARY, _UNIQUE = 0, -1


class Special(NamedTuple):
    """``number``: a Content-Length's value, 1 for a well-formed Host; -1 = malformed."""

    code: int
    name: bytes
    value: bytes
    number: int


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
    b"x-baremesh-source": SOURCE,
    b"x-baremesh-destination": DESTINATION,
    b"x-forwarded-client-cert": CLIENT_CERT,
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
AUTHORITY = re.compile(
    rb"(?:[A-Za-z0-9._~\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)
"""``host`` or ``host:port``, without user information or escapes."""
_LENGTH = re.compile(rb"[0-9]{1,18}")
"""Strict digits, below 2**63; nothing else is ever given to ``int``."""
VALUE_BYTES = bytes((9, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""What a field value may hold; ``value.translate(None, VALUE_BYTES)`` is what it may not."""

_LINE_BYTES = 256
"""A longer line is seldom repeated, and would make the table's memory large."""
_TABLE_LINES = 2048
"""Lines remembered: at most about 1.5 MB a worker."""
_TABLE_NAMES = 1024
_FEW = 4


class BadField(ValueError):
    """A line that is no header field; the text says what is wrong with it."""


class FieldTable(dict[bytes, Field | None]):
    """Parses field lines, and remembers.  One serves a whole worker.

    The dict itself maps a line to its ordinary field, so that `parse` is one
    ``map`` in C over its own ``__getitem__``; only what is not in it comes to
    ``__missing__``: new lines, and special ones, which are set aside there.
    """

    __slots__ = ("_names", "_set_aside", "_specials")

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[bytes, tuple[bytes, int]] = {}
        self._specials: dict[bytes, Special] = {}
        self._set_aside: list[Special] = []

    def parse(self, lines: list[bytes]) -> tuple[list[Field], list[Special]]:
        """The ordinary fields and the special ones, each in order.  Raises BadField."""
        special = self._set_aside = []
        fields = list(map(self.__getitem__, lines))
        if len(special) > _FEW:
            fields = [field for field in fields if field is not None]
        else:
            for _ in special:
                fields.remove(None)
        return fields, special  # type: ignore[return-value]  # no None is left

    def __missing__(self, line: bytes) -> Field | None:
        known = self._specials.get(line)
        if known is not None:
            self._set_aside.append(known)
            return None
        raw, colon, value = line.partition(b":")
        name, code = self._names.get(raw) or self._learn(raw)
        if not colon:
            raise BadField("a header line without a colon")
        if value.translate(None, VALUE_BYTES):
            raise BadField("a control character in a header value")
        value = value.strip(b" \t")
        if code > 0:
            self._set_aside.append(self._special(line, code, name, value))
            return None
        field = (name, value)
        if code == _ORDINARY and len(line) <= _LINE_BYTES:
            if len(self) >= _TABLE_LINES:
                self.clear()
            self[line] = field
        return field

    def _special(self, line: bytes, code: int, name: bytes, value: bytes) -> Special:
        number = 0
        if code == CONTENT_LENGTH:
            number = int(value) if _LENGTH.fullmatch(value) else -1
        elif code == HOST:
            number = 1 if AUTHORITY.fullmatch(value) else -1
        elif code == CONNECTION and value.lower() == b"keep-alive":
            code = KEEP_ALIVE  # nearly all Connection fields, and they change next to nothing
        special = Special(code, name, value, number)
        if len(line) <= _LINE_BYTES and not name.startswith(b"proxy-"):
            if len(self._specials) >= _TABLE_NAMES:
                self._specials.clear()
            self._specials[line] = special
        return special

    def _learn(self, raw: bytes) -> tuple[bytes, int]:
        if _NAME.fullmatch(raw) is None:
            raise BadField("a header name that is not a token")
        name = raw.lower()
        code = HOP if name.startswith(b"proxy-") else _CODES.get(name, _ORDINARY)
        known = (name, code)
        if len(raw) <= _LINE_BYTES:
            if len(self._names) >= _TABLE_NAMES:
                self._names.clear()
            self._names[raw] = known
        return known
