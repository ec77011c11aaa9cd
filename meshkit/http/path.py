"""One canonical form of a request's path: for routing, authorization and upstream.

If two of them saw different paths, a rule could be walked around.  So the path
is brought to one form once, and only that form is used and sent on.  The query
is never touched.  The steps are RFC 3986 section 6.2.2 and what Istio calls
BASE: escapes of unreserved characters are decoded and other escapes written in
upper case, backslashes are slashes, dot segments are resolved.  The other modes
are Istio's meshConfig.pathNormalization: MERGE_SLASHES, and
DECODE_AND_MERGE_SLASHES, which also decodes %2F and %5C first.

Invariant: ``canonical(canonical(p)) == canonical(p)`` in every mode.  It holds
because a stray ``%`` is refused: otherwise decoding could make a new escape
(``%%341`` → ``%41``).
"""

from __future__ import annotations

import re
from typing import Literal

from meshkit.http.errors import HTTPError

Mode = Literal["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_SLASHES = re.compile(rb"//+")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SEPARATORS = frozenset(b"/\\")
_PLAIN_TARGETS, _PLAIN_BYTES = 1024, 128
_plain: set[bytes] = set()
"""Targets seen lately that are their own canonical form; a look-up costs a tenth."""


def canonical(target: bytes, mode: Mode = "BASE") -> bytes:
    """The canonical form of an origin-form target (path and query), or of ``*``.

    Raises HTTPError 400 for ``%00``, a malformed escape, a fragment, or a path
    that does not begin with a slash.
    """
    if mode == "BASE" and target in _plain:
        return target
    if (
        mode == "BASE"
        and b"%" not in target
        and b"/." not in target
        and b"\\" not in target
        and b"#" not in target
        and target[:1] == b"/"
    ):
        if len(target) <= _PLAIN_BYTES:
            if len(_plain) >= _PLAIN_TARGETS:
                _plain.clear()
            _plain.add(target)
        return target
    path, mark, query = target.partition(b"?")
    if b"#" in target:
        raise HTTPError(400, "bad_path", "a fragment in the request target")
    if target == b"*":
        return target
    if path[:1] not in (b"/", b"\\"):
        raise HTTPError(400, "bad_path", "the path does not begin with a slash")
    return _normalise(path, mode) + mark + query


def _normalise(path: bytes, mode: Mode) -> bytes:
    decoded = _ESCAPE.sub(_with_slashes if mode.startswith("DECODE") else _escape, path)
    if mode == "NONE":
        return path
    resolved = _resolve(decoded.replace(b"\\", b"/"))
    return resolved if mode == "BASE" else _SLASHES.sub(b"/", resolved)


def _escape(match: re.Match[bytes]) -> bytes:
    digits: bytes | None = match[1]
    if digits is None:
        raise HTTPError(400, "bad_path", "a malformed escape in the path")
    byte = int(digits, 16)  # the pattern admits hexadecimal digits only
    if byte == 0:
        raise HTTPError(400, "bad_path", "%00 in the path")
    return bytes((byte,)) if byte in _UNRESERVED else b"%" + digits.upper()


def _with_slashes(match: re.Match[bytes]) -> bytes:
    escaped = _escape(match)
    if len(escaped) == 3 and (byte := int(escaped[1:], 16)) in _SEPARATORS:
        return bytes((byte,))
    return escaped


def _resolve(path: bytes) -> bytes:
    """Remove dot segments (RFC 3986 section 5.2.4); empty segments stay."""
    if b"/." not in path:
        return path
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)
