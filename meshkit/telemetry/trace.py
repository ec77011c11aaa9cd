"""Ids that tie one request's records together: x-request-id and traceparent.

``traceparent`` is W3C Trace Context level 1:
``00-<32 hex trace id>-<16 hex parent id>-<2 hex flags>``, flag 01 = sampled.
The parent's sampling decision is always respected.  A trace that begins here is
not sampled unless the caller says so: nothing in the mesh exports spans, and
the flag would switch on recording in every application behind.
"""

from __future__ import annotations

import re
from random import Random
from typing import NamedTuple

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_DRAWN = 256
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class TraceParent(NamedTuple):
    """Lower-case hex digits, as on the wire."""

    trace_id: bytes
    parent_id: bytes
    sampled: bool


class RequestIds:
    """Request ids: version 4 UUIDs (RFC 9562) that share their random first half.

    The other half counts on from a random start.  An id has to be unique, not
    secret, and drawing 122 bits for each cost more than the rest of its header.
    """

    __slots__ = ("_next", "_prefix")

    def __init__(self, random: Random) -> None:
        digits = b"%016x" % random.getrandbits(64)
        self._prefix = b"%b-%b-4%b-" % (digits[:8], digits[8:12], digits[13:])
        self._next = random.getrandbits(62)

    def new(self) -> bytes:
        """36 characters."""
        self._next = count = (self._next + 1) & 0x3FFFFFFFFFFFFFFF
        return b"%b%04x-%012x" % (self._prefix, 0x8000 | count >> 48, count & 0xFFFFFFFFFFFF)


def valid_request_id(value: bytes) -> bool:
    """One that a stranger sent may be kept: visible ASCII, 128 bytes at most."""
    return _REQUEST_ID.fullmatch(value) is not None


def new_traceparent(random: Random, sampled: bool = False) -> bytes:
    """A trace that begins here; ids are never all zero (which W3C forbids)."""
    return b"00-%032x-%016x-0%d" % (
        random.getrandbits(128) | 1,
        random.getrandbits(64) | 1,
        sampled,
    )


class TraceParents:
    """Parents of traces that begin here, unsampled; drawn many at a time.

    Ids are independent and never all zero, as with `new_traceparent`.
    """

    __slots__ = ("_at", "_digits", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._digits = b""
        self._at = 0

    def new(self) -> bytes:
        """55 bytes."""
        at, digits = self._at, self._digits
        if at == len(digits):
            self._digits = digits = self._random.randbytes(_DRAWN * 23).hex().encode()
            at = 0
        self._at = at + 46
        # A leading 1 keeps an id from being all zero; 124 and 60 bits are random enough.
        return b"00-1%b-1%b-00" % (digits[at : at + 31], digits[at + 31 : at + 46])


def parse_traceparent(value: bytes) -> TraceParent | None:
    """None for what must be ignored: malformed, version ff, an id of zeros."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more):
        return None
    if not trace_id.strip(b"0") or not parent_id.strip(b"0"):
        return None
    return TraceParent(trace_id, parent_id, bool(int(flags, 16) & 1))


def child_traceparent(parent: bytes | None, random: Random, sampled: bool = False) -> bytes:
    """The same trace and sampling decision with a new span id; a new trace if there is none."""
    known = parse_traceparent(parent) if parent else None
    if known is None:
        return new_traceparent(random, sampled)
    return b"00-%b-%016x-0%d" % (known.trace_id, random.getrandbits(64) | 1, known.sampled)
