"""Requests as a server reads them (RFC 9112), judged before anything is routed.

Two parsers that read one message differently are how requests are smuggled, so
the head is split at CRLF and every line must match one strict grammar; what is
ambiguous (two lengths, a length beside a coding, two hosts, an absolute target
against Host) is refused rather than repaired.  The caller never sees framing
or connection fields: they are consumed here, and rendered anew for the next hop.
"""

from __future__ import annotations

import re

from meshkit.http.buffer import IDLE
from meshkit.http.errors import METHOD_NOT_ALLOWED, HTTPError
from meshkit.http.fields import (
    AUTHORITY,
    CLIENT_CERT,
    CONNECTION,
    CONTENT_LENGTH,
    DESTINATION,
    EXPECT,
    HOST,
    KEEP_ALIVE,
    PROTECTED,
    SOURCE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    BadField,
    Field,
    FieldTable,
    Special,
)
from meshkit.http.framing import CHUNKED, MessageReader
from meshkit.http.limits import Limits

_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!\"$-~][!\"$-~]*) HTTP/1\.([01])"
)
_OTHER_VERSION = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]")
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?]*)(.*)", re.DOTALL)
_DEFAULT_PORT = {b"http": b":80", b"https": b":443"}
_TABLE = FieldTable()
"""Shared by the readers of a process: a memory of lines, never of meaning."""


class RequestHead:
    """A request without its body; read-only, for a reader may give it out again.

    ``target`` is as received, ``path`` its origin form with the query (or
    ``*``), ``scheme`` that of an absolute target, else b"".  ``authority`` is
    Host (equal to an absolute target's), as given.  ``headers``: names in lower
    case, in order; hop-by-hop fields, Host, Content-Length and Expect are not in
    it.  ``body``: 0 none, n bytes, or CHUNKED.  ``upgrade``: the `protocols` asked
    for, b"" = none.  ``trailers_ok``: the client sent TE: trailers.
    ``facts``: x-baremesh-source, whoever sent it; it, x-baremesh-destination and
    x-forwarded-client-cert are never in ``headers``: only meshd sets them.
    """

    # Class-level defaults instead of slots: most requests change six of the fourteen.
    scheme = b""
    authority = b""
    body = 0
    expect_continue = False
    upgrade = b""
    trailers_ok = False
    facts = b""
    http2 = False

    def __init__(self, method: bytes, target: bytes, http10: bool, headers: list[Field]) -> None:
        self.method = method
        self.target = self.path = target
        self.headers = headers
        self.http10 = http10
        self.keep_alive = not http10


class RequestReader(MessageReader):
    """One per downstream connection: feed, `head`, `body` to its end, again.

    Every HTTPError it raises means: answer with its status, then close.
    """

    __slots__ = ("_last", "_last_head")

    def __init__(self, limits: Limits, table: FieldTable = _TABLE) -> None:
        super().__init__(limits, table, 400)
        self._last: bytes | None = None
        self._last_head: RequestHead

    def head(self) -> RequestHead | None:
        """The next request's head; None = feed more.  Raises HTTPError."""
        if self._state != IDLE:
            raise RuntimeError("the body of the last request was not read to its end")
        raw = self._cut_head()
        if raw is None:
            return None
        if raw == self._last:
            head = self._last_head
            if head.body:
                self._begin_body(head.body)
            return head
        lines = raw.split(b"\r\n")
        if not lines[0] and len(lines) > 1:
            del lines[0]  # one empty line before a request is ignored (RFC 9112 section 2.2)
        if len(raw) > self.limits.field_bytes or len(lines) > self.limits.header_fields:
            self._check_sizes(raw, lines)
        method, target, http10 = _lines.get(lines[0]) or self._request_line(lines[0])
        del lines[0]
        try:
            headers, special = self._table.parse(lines)
        except BadField as error:
            raise HTTPError(400, "bad_header", str(error)) from None
        head = RequestHead(method, target, http10, headers)
        for code, _name, value, number in special:
            if code == HOST and number > 0 and not head.authority:
                head.authority = value
            elif code == SOURCE:
                head.facts = value
            elif code != DESTINATION and code != CLIENT_CERT:
                # Anything that frames or manages: all of it is judged, from the start.
                head.authority = b""
                _Judge(head, special).apply()
                break
        if target[0] != 0x2F or method in _REFUSED_METHODS:
            self._other_target(head)
        elif not head.authority:
            raise HTTPError(400, "no_host", "no Host header")
        if len(raw) <= _KEPT_BYTES:
            self._last, self._last_head = raw, head
        if head.body:
            self._begin_body(head.body)
        return head

    def _request_line(self, line: bytes) -> tuple[bytes, bytes, bool]:
        """Judge a request line; one that is asked for again and again is remembered."""
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise self._bad_line(line)
        method, target, minor = match.groups()
        parsed = (method, target, minor == b"0")
        if len(line) <= _LINE_BYTES:
            if len(_lines) >= _REQUEST_LINES:
                _lines.clear()
            _lines[line] = parsed
        return parsed

    def _check_line(self, line: bytes) -> None:
        # Not the preface, which is refused when it is whole; nor a line that is too long.
        if _REQUEST_LINE.fullmatch(line) is None and len(line) <= self.limits.request_line_bytes:
            error = self._bad_line(line)
            if error.code == "bad_request_line":
                raise error

    def _other_target(self, head: RequestHead) -> None:
        """CONNECT, TRACE, and targets that are not a path (RFC 9112 section 3.2)."""
        if head.method == b"CONNECT":
            match = AUTHORITY.fullmatch(head.target)
            if match is None or match["port"] is None or head.body == CHUNKED:
                raise HTTPError(400, "bad_target", "CONNECT needs host:port, and has no body")
        elif head.target == b"*" and head.method == b"OPTIONS":
            pass
        elif head.target[:1] != b"/":
            _absolute(head)
        if not head.authority:
            raise HTTPError(400, "no_host", "no Host header")
        if head.method in _REFUSED_METHODS:
            raise HTTPError(405, "method_not_allowed", METHOD_NOT_ALLOWED)

    def since_preface(self) -> bytes:
        """After the error ``http2_preface``: everything received, from its first byte."""
        return b"PRI * HTTP/2.0\r\n\r\n" + self.rest()

    def _bad_line(self, line: bytes) -> HTTPError:
        if line == b"PRI * HTTP/2.0":
            return HTTPError(505, "http2_preface", "HTTP/2 is spoken from the first byte, or not")
        if _OTHER_VERSION.fullmatch(line) and b" HTTP/1." not in line[-9:]:
            return HTTPError(505, "bad_version", "only HTTP/1.0 and HTTP/1.1 are spoken here")
        return HTTPError(400, "bad_request_line", "the request line is malformed")


_PROTOCOL = re.compile(rb"([!#$%&'*+\-.^_`|~0-9a-z]+)(?:/[!#$%&'*+\-.^_`|~0-9a-z]+)?")
_HTTP_AGAIN = frozenset((b"h2c", b"h2", b"http", b"tls"))
"""A tunnel of these, with or without a version, would carry requests that nobody has judged,
with any identity in their headers."""
_REFUSED_METHODS = frozenset((b"CONNECT", b"TRACE"))
_KEPT_BYTES = 1024
"""The last head of a connection, with what was made of it: clients that poll send the
same bytes again, and a comparison costs a fiftieth of a judgement.  Heads are read-only."""
_REQUEST_LINES = 1024
_LINE_BYTES = 128
"""Request lines remembered, at most 300 kB a process; ids in long targets are not repeated."""
_lines: dict[bytes, tuple[bytes, bytes, bool]] = {}


class _Judge:
    """The fields that frame a message or manage its connection."""

    __slots__ = ("coding", "has_length", "head", "listed", "special", "upgrade")

    def __init__(self, head: RequestHead, special: list[Special]) -> None:
        self.head = head
        self.special = special
        self.has_length = False
        self.coding: bytes | None = None
        self.listed: list[bytes] = []
        self.upgrade = b""

    def apply(self) -> None:
        head = self.head
        for code, _name, value, number in self.special:
            if code == HOST:
                self._host(value, number)
            elif code == SOURCE:
                head.facts = value
            elif code == KEEP_ALIVE:
                if head.http10:
                    self.listed.append(b"keep-alive")
            elif code == CONTENT_LENGTH:
                self._content_length(number)
            elif code == CONNECTION:
                self.listed += tokens(value)
            elif code == TRANSFER_ENCODING:
                if self.coding is not None:
                    raise HTTPError(400, "bad_transfer_encoding", "Transfer-Encoding twice")
                self.coding = value.lower()
            elif code == EXPECT:
                self._expect(value)
            elif code == TE:
                head.trailers_ok |= b"trailers" in tokens(value)
            elif code == UPGRADE:
                self.upgrade += b"," + value
        if self.coding is not None:
            self._transfer_encoding(self.coding)
        if self.listed:
            self._connection()
        if head.http10 or not head.body:
            head.expect_continue = False

    def _host(self, value: bytes, well_formed: int) -> None:
        if self.head.authority:
            raise HTTPError(400, "several_hosts", "more than one Host header")
        if well_formed < 0:
            raise HTTPError(400, "bad_host", "the Host header is not host or host:port")
        self.head.authority = value

    def _content_length(self, number: int) -> None:
        if self.has_length:
            raise HTTPError(400, "several_lengths", "more than one Content-Length")
        if number < 0:
            raise HTTPError(400, "bad_content_length", "Content-Length is not a number")
        self.has_length = True
        self.head.body = number

    def _transfer_encoding(self, coding: bytes) -> None:
        if self.has_length:
            raise HTTPError(400, "length_and_coding", "Content-Length with Transfer-Encoding")
        if self.head.http10:
            raise HTTPError(400, "bad_transfer_encoding", "Transfer-Encoding on HTTP/1.0")
        if coding != b"chunked":
            raise HTTPError(501, "bad_transfer_encoding", "the only coding known is chunked")
        self.head.body = CHUNKED

    def _expect(self, value: bytes) -> None:
        if value.lower() != b"100-continue":
            raise HTTPError(417, "bad_expectation", "the only expectation known is 100-continue")
        self.head.expect_continue = True

    def _connection(self) -> None:
        head = self.head
        listed = set(self.listed)
        head.keep_alive = b"close" not in listed and (not head.http10 or b"keep-alive" in listed)
        # A server ignores Upgrade in an HTTP/1.0 request (RFC 9110 section 7.8).
        if b"upgrade" in listed and self.upgrade and not head.http10:
            head.upgrade = b", ".join(protocols(self.upgrade))
        drop_listed(head.headers, listed)


def tokens(value: bytes) -> list[bytes]:
    """A comma-separated list in lower case, without empty items."""
    if b"," not in value:
        return [value.lower()] if value else []
    return [item for part in value.lower().split(b",") if (item := part.strip(b" \t"))]


def protocols(value: bytes) -> list[bytes]:
    """The protocols of an Upgrade or :protocol, in lower case, that a tunnel may carry."""
    found = ((token, _PROTOCOL.fullmatch(token)) for token in tokens(value))
    return [token for token, match in found if match and match[1] not in _HTTP_AGAIN]


def drop_listed(headers: list[Field], listed: set[bytes]) -> None:
    """Remove what Connection names, in place; protected names stay (a client could
    otherwise take away what a proxy before us added)."""
    listed = listed - PROTECTED - {b"close"}
    if listed:
        headers[:] = [field for field in headers if field[0] not in listed]


def _absolute(head: RequestHead) -> None:
    match = _ABSOLUTE.fullmatch(head.target)
    scheme = match[1].lower() if match else b""
    if match is None or scheme not in _DEFAULT_PORT:
        raise HTTPError(400, "bad_target", "the target is no path and no http or https URL")
    authority, rest = match[2], match[3]
    if AUTHORITY.fullmatch(authority) is None:
        raise HTTPError(400, "bad_target", "the target's authority is not host or host:port")
    if not head.authority and head.http10:
        head.authority = authority
    port = _DEFAULT_PORT[scheme]
    if authority.lower().removesuffix(port) != head.authority.lower().removesuffix(port):
        raise HTTPError(400, "host_mismatch", "Host and the target's authority differ")
    head.scheme = scheme
    head.path = rest if rest[:1] == b"/" else b"/" + rest
