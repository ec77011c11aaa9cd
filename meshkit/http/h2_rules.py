"""The message rules of RFC 9113 section 8, for an engine that does not keep them itself.

h2 ends the whole connection for a malformed header; with its own checks off, these
are what makes such a message cost its stream only, as with ngh2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshkit.http.fields import CONTENT_LENGTH, HOST, TOKEN, Field, Special
from meshkit.http.h2_fields import TABLE, TE, StreamError

_METHOD = re.compile(TOKEN)
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")
_PATH = re.compile(rb"[!-~\x80-\xff]+")
_AUTHORITY = re.compile(rb"[!-?A-Z\[-~]+")
"""Visible ASCII without ``@``: the rest is judged with the head."""
_STATUS = re.compile(rb"[1-5][0-9][0-9]")
_REQUEST = frozenset((b":method", b":scheme", b":path", b":authority", b":protocol"))


def _split(fields: Sequence[Field]) -> tuple[dict[bytes, bytes], list[Special]] | None:
    pseudo: dict[bytes, bytes] = {}
    start = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name in pseudo:
            return None
        pseudo[name] = value
        start += 1
    try:
        _ordinary, special = TABLE.parse(fields[start:])
    except StreamError:
        return None
    return pseudo, special


def _specials_ok(special: list[Special]) -> bool:
    lengths = [number for code, _, _, number in special if code == CONTENT_LENGTH]
    te = [value for code, _, value, _ in special if code == TE]
    return len(lengths) <= 1 and -1 not in lengths and all(v.lower() == b"trailers" for v in te)


def request_ok(fields: Sequence[Field], end: bool) -> bool:
    """Whether a request is well-formed (RFC 9113 section 8.3.1, RFC 8441 section 4)."""
    parts = _split(fields)
    if parts is None or not _REQUEST.issuperset(parts[0]) or not _specials_ok(parts[1]):
        return False
    pseudo, special = parts
    if end and any(number for code, _, _, number in special if code == CONTENT_LENGTH):
        return False
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path")
    authority = pseudo.get(b":authority")
    hosts = [value for code, _, value, _ in special if code == HOST]
    if _METHOD.fullmatch(method) is None or len(hosts) > 1:
        return False
    if any(
        _AUTHORITY.fullmatch(value) is None for value in (authority, *hosts) if value is not None
    ):
        return False
    if method == b"CONNECT" and b":protocol" not in pseudo:
        return authority is not None and path is None and b":scheme" not in pseudo
    if b":protocol" in pseudo and (method != b"CONNECT" or authority is None):
        return False
    if _SCHEME.fullmatch(pseudo.get(b":scheme", b"")) is None or path is None:
        return False
    if authority is None and not hosts:
        return False
    return _PATH.fullmatch(path) is not None and (
        path[:1] == b"/" or (path == b"*" and method == b"OPTIONS")
    )


def response_ok(fields: Sequence[Field]) -> bool:
    """Whether a response, interim or final, is well-formed (section 8.3.2)."""
    parts = _split(fields)
    if parts is None or list(parts[0]) != [b":status"] or not _specials_ok(parts[1]):
        return False
    status = parts[0][b":status"]
    return _STATUS.fullmatch(status) is not None and status != b"101"


def trailers_ok(fields: Sequence[Field]) -> bool:
    """Whether trailers are well-formed: no pseudo-fields (section 8.1)."""
    parts = _split(fields)
    return parts is not None and not parts[0]
