"""Responses as a client reads them: an upstream's mistakes become 502.

The length of a response depends on its request: none after HEAD, none for 1xx,
204 and 304, else Transfer-Encoding, Content-Length, or the end of the
connection, in that order (RFC 9112 section 6.3).  A response that could be read
in two ways is refused, and its connection is not used again.
"""

from __future__ import annotations

import re

from meshkit.http.buffer import IDLE
from meshkit.http.fields import (
    CLIENT_CERT,
    CONNECTION,
    CONTENT_LENGTH,
    DESTINATION,
    EXPECT,
    HOST,
    KEEP_ALIVE,
    TRANSFER_ENCODING,
    UPGRADE,
    BadField,
    Field,
    FieldTable,
    Special,
)
from meshkit.http.framing import CHUNKED, NO_LENGTH, UNTIL_CLOSE, MessageReader
from meshkit.http.h1_request import _TABLE, drop_listed, tokens
from meshkit.http.limits import Limits

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_STATUS_LINES = 256
_KEPT_BYTES = 1024
"""As for requests: a busy service's answers within one second are often the same head."""
_lines: dict[bytes, tuple[bool, int, bytes]] = {}


class ResponseHead:
    """A response without its body; read-only, for a reader may give it out again.

    ``body``: what follows on this connection: 0 none, n bytes, CHUNKED or
    UNTIL_CLOSE.  ``raw_length``: the Content-Length as sent, also after HEAD and
    on 304; None = none.  ``framing``: what `render_response` needs to pass the
    response on unchanged (a length, CHUNKED, UNTIL_CLOSE or NO_LENGTH).
    ``facts``: x-baremesh-destination, never in ``headers``.
    ``upgrade``: the protocol that a 101 switches to, in lower case; b"" with any other status.
    ``headers``: as in `RequestHead`, hop-by-hop fields and Content-Length removed.
    """

    body = UNTIL_CLOSE
    raw_length: int | None = None
    framing = UNTIL_CLOSE
    facts = b""
    upgrade = b""

    def __init__(self, http10: bool, status: int, reason: bytes, headers: list[Field]) -> None:
        self.status = status
        self.reason = reason
        self.http10 = http10
        self.headers = headers
        self.keep_alive = not http10


class ResponseReader(MessageReader):
    """One per upstream connection.  Its HTTPErrors are 502: answer so, and close it.

    ``upgrading``: the request asks for an upgrade, so that a 101 is an answer.  It
    stays set until the caller says otherwise.
    """

    __slots__ = ("_interim", "_last", "_last_head", "upgrading")

    def __init__(self, limits: Limits, table: FieldTable = _TABLE) -> None:
        super().__init__(limits, table, 502)
        self.upgrading = False
        self._interim = 0
        self._last: bytes | None = None
        self._last_head: ResponseHead

    def head(self, method: bytes) -> ResponseHead | None:
        """The next head for a request with ``method``; None = feed more.

        A head with status < 200 is interim: pass it on or drop it, then call
        again for the final one.  A 101 is final; what follows it is no HTTP: `rest`.
        """
        if self._state != IDLE:
            raise RuntimeError("the body of the last response was not read to its end")
        raw = self._cut_head()
        if raw is None:
            return None
        if raw == self._last and method != b"HEAD":
            self._interim = 0
            if self._last_head.body:
                self._begin_body(self._last_head.body)
            return self._last_head
        lines = raw.split(b"\r\n")
        if len(raw) > self.limits.field_bytes or len(lines) > self.limits.header_fields:
            self._check_sizes(raw, lines)
        http10, status, reason = _lines.get(lines[0]) or self._status_line(lines[0])
        del lines[0]
        try:
            headers, special = self._table.parse(lines)
        except BadField as error:
            raise self.bad("bad_header", str(error)) from None
        head = ResponseHead(http10, status, reason, headers)
        coding = self._special(head, special) if special else None
        self._frame(head, method, coding)
        if status >= 200 and method != b"HEAD" and len(raw) <= _KEPT_BYTES:
            self._last, self._last_head = raw, head
        if head.body:
            self._begin_body(head.body)
        return head

    def _check_line(self, line: bytes) -> None:
        if not line.startswith(b"HTTP/"):
            raise self.bad("bad_status_line", "its first line is no HTTP status line")

    def _status_line(self, line: bytes) -> tuple[bool, int, bytes]:
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise self.bad("bad_status_line", "the status line is malformed")
        parsed = (match[1] == b"0", int(match[2]), match[3] or b"")
        if len(line) < 64:
            if len(_lines) >= _STATUS_LINES:
                _lines.clear()
            _lines[line] = parsed
        return parsed

    def _special(self, head: ResponseHead, special: list[Special]) -> bytes | None:
        """Fill in what ``special`` says; returns the transfer coding."""
        coding: bytes | None = None
        listed: list[bytes] = []
        upgrade = b""
        for code, name, value, number in special:
            if code == CONTENT_LENGTH:
                self._content_length(head, number)
            elif code == KEEP_ALIVE:
                if head.http10:
                    listed.append(b"keep-alive")
            elif code == CONNECTION:
                listed += tokens(value)
            elif code == TRANSFER_ENCODING:
                if coding is not None:
                    raise self.bad("bad_transfer_encoding", "Transfer-Encoding twice")
                coding = value.lower()
            elif code == DESTINATION:
                head.facts = value
            elif code == UPGRADE:
                upgrade += b"," + value
            elif code in (EXPECT, HOST, CLIENT_CERT):
                head.headers.append((name, value))
        if listed:
            names = set(listed)
            wanted = not head.http10 or b"keep-alive" in names
            head.keep_alive = wanted and b"close" not in names
            drop_listed(head.headers, names)
            if b"upgrade" in names and head.status == 101:
                head.upgrade = b", ".join(tokens(upgrade))
        return coding

    def _content_length(self, head: ResponseHead, number: int) -> None:
        if head.raw_length is not None:
            raise self.bad("several_lengths", "more than one Content-Length")
        if number < 0:
            raise self.bad("bad_content_length", "Content-Length is not a number")
        head.raw_length = number

    def _frame(self, head: ResponseHead, method: bytes, coding: bytes | None) -> None:
        status, length = head.status, head.raw_length
        if coding is not None:
            self._check_coding(head, coding)
        if status < 200 or status == 204:
            if coding is not None or length:
                raise self.bad("unexpected_body", "a body on a response that has none")
            self._interim_or_reset(status)
            head.body, head.framing = 0, NO_LENGTH
            return
        self._interim = 0
        if method == b"HEAD" or status == 304:
            head.body = 0
            head.framing = NO_LENGTH if length is None else length
        elif coding is not None:
            head.body = head.framing = CHUNKED
        elif length is not None:
            head.body = head.framing = length
        else:
            head.keep_alive = False

    def _check_coding(self, head: ResponseHead, coding: bytes) -> None:
        if head.raw_length is not None:
            raise self.bad("length_and_coding", "Content-Length with Transfer-Encoding")
        if coding != b"chunked" or head.http10:
            raise self.bad("bad_transfer_encoding", "a coding other than chunked on HTTP/1.1")

    def _interim_or_reset(self, status: int) -> None:
        self._interim = self._interim + 1 if status < 200 else 0
        if status == 101 and not self.upgrading:
            raise self.bad("unexpected_upgrade", "101 to a request that asked for no upgrade")
        if self._interim > self.limits.interim_responses:
            raise self.bad("too_many_interim", "too many 1xx responses")
