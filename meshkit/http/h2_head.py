"""HTTP/2 fields ↔ the same heads as HTTP/1's, so that nothing behind has two versions.

`request_head` and `response_head` judge what an engine hands over; `request_fields`
and `response_fields` write what an engine sends.  The engine has judged the grammar of
RFC 9113 already; here is what it leaves open or leaves to others: Host against
:authority, a fragment or bytes beyond ASCII in :path, schemes that are not ours, sizes,
cookie crumbs, and the fields that only meshd sets.

Two kinds of refusal.  `StreamError`: the message is malformed, its stream is reset and
counted (RFC 9113 section 8.1.1).  `HTTPError`: it is well-formed and not for us; answer
with its status on the stream (a response's HTTPError is 502 to whoever asked).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshkit.http.errors import METHOD_NOT_ALLOWED, STATUS_TEXT, HTTPError
from meshkit.http.fields import (
    AUTHORITY,
    CLIENT_CERT,
    CONTENT_LENGTH,
    DESTINATION,
    EXPECT,
    HOST,
    SOURCE,
    Field,
    Special,
)
from meshkit.http.framing import CHUNKED, NO_LENGTH
from meshkit.http.h1_request import RequestHead, protocols
from meshkit.http.h1_response import ResponseHead
from meshkit.http.h2 import PROTOCOL_ERROR
from meshkit.http.h2_fields import (
    CONNECTION_FIELDS,
    COOKIE,
    REMEMBERED_BYTES,
    TABLE,
    TE,
    StreamError,
    too_large,
    trailer_fields,
)
from meshkit.http.limits import Limits

__all__ = [
    "H2RequestHead",
    "StreamError",
    "passable",
    "request_fields",
    "request_head",
    "response_fields",
    "response_head",
    "trailer_fields",
]

_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
_PATH_BYTES = bytes((0x21, 0x22, *range(0x24, 0x7F)))
"""What HTTP/1's request line takes: visible ASCII without the fragment's mark."""
_SCHEMES = (b"http", b"https")
_PSEUDO = 4
_ORIGINS = 1024
_ORIGIN_BYTES = 300
_Origin = tuple[bytes | None, bytes | None, bytes | None]
_origins: set[_Origin] = set()
"""(method, scheme, authority) judged good lately: at most about 500 kB."""


class H2RequestHead(RequestHead):
    """A `RequestHead` that came over HTTP/2.

    ``scheme`` is :scheme; ``body`` 0, the content-length, or CHUNKED for a body of
    unknown length; ``headers`` has the cookie crumbs joined where the first stood.
    An extended CONNECT (RFC 8441) is told as HTTP/1 tells an upgrade: ``method`` GET,
    ``upgrade`` its :protocol, and ``body`` CHUNKED: its DATA is the tunnel.
    """

    http2 = True


def request_head(fields: Sequence[Field], end: bool, limits: Limits) -> H2RequestHead:
    """Judge a request.  ``end``: no body follows.  Raises StreamError, HTTPError."""
    if len(fields) > limits.header_fields + _PSEUDO:
        raise HTTPError(431, "too_many_headers", "too many header fields")
    first = dict(fields[:_PSEUDO])
    method, path = first.get(b":method"), first.get(b":path")
    scheme, authority = first.get(b":scheme"), first.get(b":authority")
    if (
        path is None
        or (method, scheme, authority) not in _origins
        or path[:1] != b"/"
        or path.translate(None, _PATH_BYTES)
        or len(path) > limits.request_line_bytes
    ):
        return _unusual(fields, end, limits)
    headers, special = TABLE.parse(fields[_PSEUDO:])
    head = H2RequestHead(method, path, False, headers)  # type: ignore[arg-type]  # judged
    head.scheme, head.authority = scheme, authority  # type: ignore[assignment]
    if not end:
        head.body = CHUNKED
    if special:
        _specials(head, special, end)
    if TABLE.new_bytes + REMEMBERED_BYTES * len(fields) > limits.field_bytes:
        _check_sizes(fields, limits, 431)
    return head


def _check_sizes(fields: Sequence[Field], limits: Limits, status: int) -> None:
    if code := too_large(fields, limits):
        raise HTTPError(status, code, "the head is too large")


def _unusual(fields: Sequence[Field], end: bool, limits: Limits) -> H2RequestHead:
    """The general path: an origin not seen lately, no :authority, CONNECT, a bad path."""
    pseudo, rest = _split(fields)
    method, scheme = pseudo.get(b":method", b""), pseudo.get(b":scheme", b"")
    path, authority = pseudo.get(b":path", b""), pseudo.get(b":authority")
    protocol = pseudo.get(b":protocol")
    if _METHOD.fullmatch(method) is None:
        raise StreamError(PROTOCOL_ERROR, "h2_bad_method", ":method is no token")
    if method == b"TRACE" or (method == b"CONNECT" and protocol is None):
        raise HTTPError(405, "method_not_allowed", METHOD_NOT_ALLOWED)
    if scheme not in _SCHEMES:
        raise StreamError(PROTOCOL_ERROR, "h2_bad_scheme", ":scheme is not http or https")
    _check_path(path, method, limits)
    headers, special = TABLE.parse(rest)
    head = H2RequestHead(method, path, False, headers)
    head.scheme, head.authority = scheme, _authority(authority, special)
    head.body = 0 if end else CHUNKED
    _specials(head, special, end)
    if protocol is not None:
        _tunnel(head, protocol, end)
    elif authority is not None and len(authority) + len(method) <= _ORIGIN_BYTES:
        if len(_origins) >= _ORIGINS:
            _origins.clear()
        if all(field[0][:1] == b":" for field in fields[:_PSEUDO]):
            _origins.add((method, scheme, authority))
    _check_sizes(fields, limits, 431)
    return head


def _split(fields: Sequence[Field]) -> tuple[dict[bytes, bytes], Sequence[Field]]:
    pseudo: dict[bytes, bytes] = {}
    for i, (name, value) in enumerate(fields):
        if name[:1] != b":":
            return pseudo, fields[i:]
        if name in pseudo:
            raise StreamError(PROTOCOL_ERROR, "h2_bad_pseudo", "a pseudo-field twice")
        pseudo[name] = value
    return pseudo, ()


def _check_path(path: bytes, method: bytes, limits: Limits) -> None:
    if len(path) > limits.request_line_bytes:
        raise HTTPError(414, "request_line_too_long", ":path is too long")
    if path == b"*" and method == b"OPTIONS":
        return
    if path[:1] != b"/" or not path.isascii() or b"#" in path:
        raise HTTPError(400, "bad_target", ":path is no path and query")
    if path.translate(None, _PATH_BYTES):
        raise StreamError(PROTOCOL_ERROR, "h2_bad_path", "a byte in :path that no target has")


def _authority(authority: bytes | None, special: list[Special]) -> bytes:
    """:authority, or Host where a translating client sent only that (RFC 9113 8.3.1)."""
    if authority is None:
        hosts = [value for code, _, value, _ in special if code == HOST]
        if not hosts:
            raise HTTPError(400, "no_host", "neither :authority nor Host")
        authority = hosts[0]
    if AUTHORITY.fullmatch(authority) is None:
        raise HTTPError(400, "bad_host", ":authority is not host or host:port")
    return authority


def _tunnel(head: H2RequestHead, protocol: bytes, end: bool) -> None:
    if head.method != b"CONNECT" or not protocol or end or head.body != CHUNKED:
        raise StreamError(PROTOCOL_ERROR, "h2_bad_pseudo", ":protocol is for an open CONNECT")
    if protocols(protocol) != [protocol.lower()]:
        raise HTTPError(501, "bad_protocol", "a :protocol that no tunnel may carry")
    head.method, head.upgrade = b"GET", protocol.lower()


def _specials(head: H2RequestHead, special: list[Special], end: bool) -> None:
    crumbs: list[bytes] = []
    length = -1
    for code, _name, value, number in special:
        if code == TE:
            if value.lower() != b"trailers":
                raise StreamError(PROTOCOL_ERROR, "h2_connection_field", "TE is not trailers")
            head.trailers_ok = True
        elif code == CONTENT_LENGTH:
            length = _length(length, number, end)
            if not end:
                head.body = length
        elif code == COOKIE:
            crumbs.append(value)
        elif code == SOURCE:
            head.facts = value
        elif code == HOST:
            if value.lower() != head.authority.lower():
                raise HTTPError(400, "host_mismatch", "Host and :authority differ")
        elif code == EXPECT:
            if value.lower() != b"100-continue":
                raise HTTPError(417, "bad_expectation", "the one expectation is 100-continue")
            head.expect_continue = not end
    if crumbs:
        # An empty crumb would leave a space at the end, which no value may have.
        head.headers.append((b"cookie", b"; ".join([crumb for crumb in crumbs if crumb])))


def _length(before: int, number: int, end: bool) -> int:
    if before >= 0 or number < 0 or (end and number):
        raise StreamError(PROTOCOL_ERROR, "h2_bad_length", "content-length is no length")
    return number


def response_head(
    fields: Sequence[Field], end: bool, request_method: bytes, limits: Limits
) -> ResponseHead:
    """Judge a response, interim or final.  Raises StreamError, HTTPError 502.

    ``body``: 0, the content-length, or CHUNKED; for HEAD, 204 and 304 it is 0, though
    DATA that only ends the stream may still follow.
    """
    if len(fields) > limits.header_fields + 1:
        raise HTTPError(502, "too_many_headers", "too many header fields")
    name, value = fields[0] if fields else (b"", b"")
    status = _STATUSES.get(value, 0) if name == b":status" else 0
    if not status >= 100 or status == 101:
        raise StreamError(PROTOCOL_ERROR, "h2_bad_status", ":status is no status")
    headers, special = TABLE.parse(fields[1:])
    head = ResponseHead(False, status, STATUS_TEXT.get(status, b""), headers)
    for code, name, value, number in special:
        if code == CONTENT_LENGTH:
            head.raw_length = _length(-1 if head.raw_length is None else 0, number, False)
        elif code == DESTINATION:
            head.facts = value
        elif code in (EXPECT, HOST, CLIENT_CERT, COOKIE):
            headers.append((name, value))
    _frame(head, end, request_method)
    if TABLE.new_bytes + REMEMBERED_BYTES * len(fields) > limits.field_bytes:
        _check_sizes(fields, limits, 502)
    return head


def _frame(head: ResponseHead, end: bool, method: bytes) -> None:
    status, length = head.status, head.raw_length
    if status < 200 or status == 204:
        if length or (status < 200 and end):
            raise HTTPError(502, "unexpected_body", "a body on a response that has none")
        head.body, head.framing = 0, NO_LENGTH
    elif method == b"HEAD" or status == 304:
        head.body, head.framing = 0, NO_LENGTH if length is None else length
    elif end:
        if length:
            raise StreamError(PROTOCOL_ERROR, "h2_bad_length", "a length without its body")
        head.body = head.framing = 0
    else:
        head.body = head.framing = CHUNKED if length is None else length


_STATUSES = {b"%d" % status: status for status in range(100, 600)}
_STATUS_FIELDS = {status: (b":status", b"%d" % status) for status in range(100, 600)}
_TE_TRAILERS = (b"te", b"trailers")
_BODY_METHODS = frozenset((b"POST", b"PUT", b"PATCH"))
_NOT_PASSED = CONNECTION_FIELDS | {b"te", b"host", b"content-length", b"http2-settings"}
"""Rendered anew or without meaning here, whoever put them into a list of headers."""


def passable(headers: Sequence[Field]) -> list[Field]:
    """Without what HTTP/2 has not; a head's own never have it, configured ones may."""
    return [field for field in headers if field[0] not in _NOT_PASSED]


def request_fields(
    method: bytes,
    scheme: bytes,
    authority: bytes,
    path: bytes,
    headers: Sequence[Field],
    body: int,
    trailers_ok: bool = True,
    protocol: bytes = b"",
) -> list[Field]:
    """A request for an engine.  ``body``: 0, a length, or CHUNKED (none is written).

    ``headers``: names in lower case.  ``protocol``: an extended CONNECT's; the method
    is CONNECT then, whatever is given.
    """
    fields = [
        (b":method", b"CONNECT" if protocol else method),
        (b":scheme", scheme),
        (b":path", path),
        (b":authority", authority),
    ]
    if protocol:
        fields.append((b":protocol", protocol))
    fields += passable(headers)
    if body > 0 or (body == 0 and method in _BODY_METHODS):
        fields.append((b"content-length", b"%d" % body))
    if trailers_ok:
        fields.append(_TE_TRAILERS)
    return fields


def response_fields(status: int, headers: Sequence[Field], body: int) -> list[Field]:
    """A response for an engine.  ``body``: a length, or what stands for none known."""
    fields = [_STATUS_FIELDS[status]]
    fields += passable(headers)
    if body >= 0:
        fields.append((b"content-length", b"%d" % body))
    return fields
