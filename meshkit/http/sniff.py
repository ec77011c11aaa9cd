"""What a connection speaks, by its first bytes: only where a service asks for it (AUTO).

A declared protocol is never doubted; guessing is for ports that carry several.  It is
bounded in bytes here and in time by whoever reads: a protocol in which the server speaks
first shows nothing at all, and is TCP once the `sniff` limit has passed.

What looks like HTTP only at first is TCP: a request line counts when its version has come,
so that ``GET key`` of a text protocol is left alone.
"""

from __future__ import annotations

import re
from typing import Literal

Protocol = Literal["http/1.1", "h2", "tls", "tcp"]

MAX_SNIFF = 8_192
"""Bytes to look at.  A request line longer than that is refused by gateways anyway, and
here is bytes like any others."""

H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_METHOD = re.compile(rb"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,23}")
_LINE = re.compile(rb"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,23} [\x21-\x7e\x80-\xff]+ HTTP/1\.[01]\r?\n")
_TLS = b"\x16\x03"
"""A handshake record of SSL 3.0 to TLS 1.3 (RFC 8446, 5.1)."""


def sniff(data: bytes) -> Protocol | None:
    """The protocol of a connection that begins so; None: more bytes are needed to tell."""
    if not data:
        return None
    if data[:2] == _TLS[: len(data)]:
        return "tls" if len(data) > 1 else None
    if data.startswith(H2_PREFACE):
        return "h2"
    if H2_PREFACE.startswith(data):
        return None
    return _http1(data)


def foreign(data: bytes) -> str:
    """What speaks where HTTP/1 was expected: "HTTP/2", "TLS", or "" for anything else.

    For messages to operators alone: an HTTP/2 server begins with SETTINGS on stream 0
    (RFC 9113, 3.4), TLS with a handshake record or an alert.
    """
    if data[3:4] == b"\x04" and data[5:9] == bytes(4):
        return "HTTP/2"
    return "TLS" if data[:2] in (_TLS, b"\x15\x03") else ""


def _http1(data: bytes) -> Protocol | None:
    line, end, _ = data[:MAX_SNIFF].partition(b"\n")
    if end:
        return "http/1.1" if _LINE.fullmatch(line + end) else "tcp"
    method = line.partition(b" ")[0]
    if len(data) >= MAX_SNIFF or not _METHOD.fullmatch(method):
        return "tcp"
    return None
