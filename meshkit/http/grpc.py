"""What a proxy knows of gRPC: deadlines, statuses, message boundaries; never contents.

Sources: gRPC's PROTOCOL-HTTP2.md (timeout, message framing, status message encoding)
and http-grpc-status-mapping.md.  gRPC-Web has the same framing; its trailers are in
the body, so its status is not seen here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from meshkit.http.fields import Field

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = range(6)
ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION = range(6, 10)
ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS = range(10, 16)
UNAUTHENTICATED = 16

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Mapping[bytes, float] = {
    b"H": 3600.0,
    b"M": 60.0,
    b"S": 1.0,
    b"m": 1e-3,
    b"u": 1e-6,
    b"n": 1e-9,
}
_STATUS: Mapping[int, int] = {
    400: INTERNAL,
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    404: UNIMPLEMENTED,
    429: UNAVAILABLE,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: UNAVAILABLE,
}
"""http-grpc-status-mapping.md: what a client makes of an answer that is no gRPC."""
_RESET: Mapping[int, int] = {
    7: UNAVAILABLE,  # REFUSED_STREAM
    8: CANCELLED,  # CANCEL
    11: RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    12: PERMISSION_DENIED,  # INADEQUATE_SECURITY
}
"""PROTOCOL-HTTP2.md, "Errors"; every other code is INTERNAL."""
_LOCAL: Mapping[int, int] = {408: DEADLINE_EXCEEDED, 504: DEADLINE_EXCEEDED, 501: UNIMPLEMENTED}
_PLAIN = frozenset(range(0x20, 0x7F)) - {0x25}
_MESSAGE_BYTES = 1024
"""Of a grpc-message: it is one line for a person, and must fit into trailers."""
_PREFIX = 5


def is_grpc(content_type: bytes) -> bool:
    """``application/grpc``, with a format (``+proto``) or parameters; not gRPC-Web."""
    kind = content_type[:17].lower()
    return kind[:16] == b"application/grpc" and kind[16:] in (b"", b"+", b";", b" ")


def timeout(value: bytes) -> float | None:
    """``grpc-timeout`` in seconds; None where it is malformed (ignored, as gRPC does)."""
    match = _TIMEOUT.fullmatch(value)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def render_timeout(seconds: float) -> bytes:
    """The same, rounded up to what eight digits hold; at least one nanosecond."""
    for unit, size in reversed(list(_UNITS.items())):
        amount = -int(-max(seconds, 0.0) / size // 1) or 1
        if amount < 100_000_000:
            return b"%d%b" % (amount, unit)
    return b"99999999H"


def status_of(http_status: int) -> int:
    """The gRPC status for an HTTP answer without one, as every client maps it."""
    return _STATUS.get(http_status, UNKNOWN)


def status_of_reset(code: int) -> int:
    """The gRPC status for a stream that ended with RST_STREAM ``code``."""
    return _RESET.get(code, INTERNAL)


def status_of_reply(http_status: int) -> int:
    """For a reply of our own: a timeout here is the caller's deadline, too."""
    return _LOCAL.get(http_status) or status_of(http_status)


def read_status(value: bytes) -> int:
    """``grpc-status`` as sent; what is no status of gRPC is UNKNOWN, as clients read it."""
    status = int(value) if len(value) <= 2 and value.isdigit() else UNKNOWN
    return status if status <= UNAUTHENTICATED else UNKNOWN


def encode_message(text: str) -> bytes:
    """``grpc-message``: UTF-8, percent-encoded but for printable ASCII, cut if long."""
    raw = text.encode()[:_MESSAGE_BYTES]
    return b"".join([b"%c" % byte if byte in _PLAIN else b"%%%02X" % byte for byte in raw])


def trailers_only(status: int, message: str = "") -> list[Field]:
    """An answer of ours to a gRPC caller: one head that ends the stream.

    ``status``: the gRPC status.  It is 200 for HTTP, for a caller maps anything else
    by a table and throws the message away.
    """
    fields = [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % status),
    ]
    if message:
        fields.append((b"grpc-message", encode_message(message)))
    return fields


class MessageCounter:
    """Messages of one direction, counted over their 5-byte prefixes as DATA goes by."""

    __slots__ = ("_left", "_prefix", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self._left = 0
        self._prefix = b""

    def feed(self, data: bytes) -> None:
        """The next bytes of the body; a message counts once its prefix is there."""
        left = self._left
        size = len(data)
        if left >= size:
            self._left = left - size
            return
        if self._prefix:
            data = self._prefix + data
            size = len(data)
            self._prefix = b""
        while size - left >= _PREFIX:
            self.messages += 1
            left += _PREFIX + int.from_bytes(data[left + 1 : left + _PREFIX])
        if left < size:
            self._prefix = data[left:]
            left = size
        self._left = left - size
