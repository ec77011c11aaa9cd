"""The rolling buffer of one side of a connection, and the bodies read from it.

A `MessageReader` holds what was received and not yet used.  Between messages it
looks for a head; inside one it hands out body bytes, decoded:

    IDLE ──head()──▶ LENGTH / CHUNK_SIZE / UNTIL_EOF ──body()──▶ IDLE
    CHUNK_SIZE ▶ CHUNK_DATA ▶ CHUNK_END ▶ CHUNK_SIZE … ▶ TRAILERS ▶ IDLE

Bytes after a message stay for the next one (pipelining).  Three costs shape the
code: a message that came whole is cut out with one copy; nothing is searched
twice, so a peer that sends byte by byte costs linear time; the buffer never
holds more than one limit's worth plus one read, because the caller feeds only
when told that more is needed.

Chunked coding is read strictly (RFC 9112 section 7.1) and always written anew:
whatever two parsers may read differently does not survive the proxy.
"""

from __future__ import annotations

import re
from typing import Final

from meshkit.http.errors import HTTPError
from meshkit.http.fields import PROTECTED, BadField, Field, FieldTable
from meshkit.http.limits import Limits

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
NO_LENGTH: Final = -3
"""For rendering only: no framing field at all (1xx, 204, HEAD without a length)."""

IDLE, LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS, UNTIL_EOF = range(7)

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t -~\x80-\xff]*)?)\r\n")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_NO_TRAILERS: list[Field] = []


class MessageReader:
    """What requests and responses share.  ``_fault`` is the status of a refusal."""

    __slots__ = (
        "_buf",
        "_eof",
        "_extensions",
        "_fault",
        "_pos",
        "_remaining",
        "_scan",
        "_state",
        "_table",
        "limits",
        "trailers",
    )

    def __init__(self, limits: Limits, table: FieldTable, fault: int) -> None:
        self.limits = limits
        self.trailers: list[Field] = _NO_TRAILERS
        self._table = table
        self._fault = fault
        self._buf: bytes | bytearray = b""
        self._pos = 0
        self._scan = 0
        self._state = IDLE
        self._remaining = 0
        self._extensions = 0
        self._eof = False

    @property
    def done(self) -> bool:
        """The current message was read to its end (or none has begun)."""
        return self._state == IDLE

    @property
    def buffered(self) -> int:
        """Bytes received and not used: a head in part, or what was pipelined."""
        return len(self._buf) - self._pos

    def pending(self) -> bool:
        """A message has begun: its deadline counts, not the idle one."""
        return self._state != IDLE or self._pos < len(self._buf)

    def feed(self, data: bytes) -> None:
        """Add received bytes.  Call it when `head` or `body` said None."""
        if self._pos == len(self._buf):
            self._buf = data
            self._pos = self._scan = 0
            return
        if self._pos or self._buf.__class__ is bytes:
            self._scan = max(0, self._scan - self._pos)
            self._buf = bytearray(memoryview(self._buf)[self._pos :])
            self._pos = 0
        self._buf += data

    def eof(self) -> None:
        """The peer will send no more; what is incomplete now becomes an error."""
        self._eof = True

    def bad(self, code: str, message: str, status: int = 0) -> HTTPError:
        """An error of this message; responses are always the upstream's fault, 502."""
        return HTTPError(status if status and self._fault == 400 else self._fault, code, message)

    # Heads

    def _cut_head(self) -> bytes | None:
        """The next head without its last CRLFCRLF; None = incomplete."""
        buf = self._buf
        end = buf.find(b"\r\n\r\n", self._scan)
        if end < 0:
            self._check_partial(buf)
            return None
        pos = self._pos
        if end - pos > self.limits.header_bytes:
            raise self._too_large(buf, pos)
        head = buf[pos:end]
        self._pos = self._scan = end + 4
        return head if head.__class__ is bytes else bytes(head)

    def _check_partial(self, buf: bytes | bytearray) -> None:
        """Refuse what can no longer become a head; remember how far was searched."""
        if _BARE.search(buf, max(self._pos, self._scan - 1)):
            raise self.bad("bad_line_ending", "a bare CR, LF or NUL in the head")
        if len(buf) - self._pos > self.limits.header_bytes:
            raise self._too_large(buf, self._pos)
        if self._eof and len(buf) > self._pos:
            raise self.bad("truncated", "the connection ended inside a head")
        self._scan = max(self._pos, len(buf) - 3)

    def _too_large(self, buf: bytes | bytearray, pos: int) -> HTTPError:
        line = buf.find(b"\r\n", pos, pos + self.limits.request_line_bytes + 2)
        if line < 0:
            return self.bad("request_line_too_long", "the first line is too long", 414)
        return self.bad("headers_too_large", "the header block is too large", 431)

    def _check_sizes(self, head: bytes, lines: list[bytes]) -> None:
        """The limits that only a long head, or one with many fields, can break."""
        limits = self.limits
        if len(lines) - 1 > limits.header_fields:
            raise self.bad("too_many_headers", "too many header fields", 431)
        if len(lines[0]) > limits.request_line_bytes:
            raise self.bad("request_line_too_long", "the first line is too long", 414)
        if len(head) > limits.field_bytes and max(map(len, lines[1:])) > limits.field_bytes:
            raise self.bad("header_too_large", "one header field is too large", 431)

    def _begin_body(self, body: int) -> None:
        if body > 0:
            self._remaining = body
            self._state = LENGTH
        elif body == CHUNKED:
            self._extensions = 0
            self._state = CHUNK_SIZE
        elif body == UNTIL_CLOSE:
            self._state = UNTIL_EOF

    # Bodies

    def body(self, n_max: int = 65536) -> bytes | None:
        """Decoded body bytes at hand, ``n_max`` at most.

        None: feed more.  b"": the body has ended, `trailers` are set.  Raises
        HTTPError where the framing is broken or the peer left too early.
        """
        state = self._state
        if state == LENGTH:
            return self._take(n_max, LENGTH, IDLE)
        if state == IDLE:
            return b""
        if state == UNTIL_EOF:
            return self._until_eof(n_max)
        return self._chunked(n_max)

    def whole_body(self) -> bytes | None:
        """All the rest of a body with a length, when it is at hand; else None.

        The caller can then send head and body at once.
        """
        if self._state != LENGTH or len(self._buf) - self._pos < self._remaining:
            return None
        return self._take(self._remaining, LENGTH, IDLE)

    def _take(self, n_max: int, stay: int, after: int) -> bytes | None:
        """Cut up to ``n_max`` of the ``_remaining`` bytes; at their end go to ``after``."""
        buf, pos = self._buf, self._pos
        end = min(len(buf), pos + n_max, pos + self._remaining)
        if end == pos:
            if self._eof:
                raise self.bad("truncated", "the connection ended inside a body")
            return None
        self._remaining -= end - pos
        self._state = after if not self._remaining else stay
        self._pos = self._scan = end
        data = buf[pos:end]
        return data if data.__class__ is bytes else bytes(data)

    def _until_eof(self, n_max: int) -> bytes | None:
        self._remaining = n_max
        if self._pos < len(self._buf):
            return self._take(n_max, UNTIL_EOF, UNTIL_EOF)
        if not self._eof:
            return None
        self._state = IDLE
        return b""

    def _chunked(self, n_max: int) -> bytes | None:
        """Join what chunks are at hand, up to ``n_max`` bytes of data."""
        parts: list[bytes] = []
        room = n_max
        while room:
            state = self._state
            if state == CHUNK_SIZE:
                more = self._chunk_line()
            elif state == CHUNK_DATA:
                data = self._take(room, CHUNK_DATA, CHUNK_END) if self._at_hand(parts) else None
                more = data is not None
                if data:
                    parts.append(data)
                    room -= len(data)
            elif state == CHUNK_END:
                more = self._chunk_end()
            else:
                more = False
                if self._read_trailers() and not parts:
                    return b""
            if not more:
                break
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _at_hand(self, parts: list[bytes]) -> bool:
        return not parts or self._pos < len(self._buf)

    def _chunk_line(self) -> bool:
        buf, pos = self._buf, self._pos
        limit = self.limits.chunk_line_bytes
        match = _CHUNK_LINE.match(buf, pos)
        if match is None or match.end() - pos > limit + 2:
            return self._no_chunk_line(buf, pos, limit)
        size = int(match[1], 16)  # the pattern admits hexadecimal digits only
        self._pos = self._scan = match.end()
        self._extensions += len(match[2])
        if self._extensions > self.limits.chunk_extension_bytes:
            raise self.bad("chunk_extensions_too_large", "too many chunk extensions")
        if size:
            self._remaining = size
            self._state = CHUNK_DATA
        else:
            self._state = TRAILERS
        return True

    def _no_chunk_line(self, buf: bytes | bytearray, pos: int, limit: int) -> bool:
        if buf.find(b"\n", pos, pos + limit + 2) >= 0 or len(buf) - pos > limit + 1:
            raise self.bad("bad_chunk", "a chunk's size line is malformed or too long")
        if self._eof:
            raise self.bad("truncated", "the connection ended inside a chunked body")
        return False

    def _chunk_end(self) -> bool:
        end = self._buf[self._pos : self._pos + 2]
        if end == b"\r\n":
            self._pos = self._scan = self._pos + 2
            self._state = CHUNK_SIZE
            return True
        if end and end != b"\r":
            raise self.bad("bad_chunk", "no line end after a chunk's data")
        if self._eof:
            raise self.bad("truncated", "the connection ended inside a chunked body")
        return False

    def _read_trailers(self) -> bool:
        """Parse the trailer section; True = the message has ended."""
        buf, pos = self._buf, self._pos
        if buf[pos : pos + 2] == b"\r\n":
            end, block = pos + 2, b""
        else:
            found = buf.find(b"\r\n\r\n", self._scan)
            if found < 0:
                return self._partial_trailers(buf, pos)
            end, block = found + 4, bytes(buf[pos:found])
        if len(block) > self.limits.trailer_bytes:
            raise self.bad("trailers_too_large", "the trailers are too large", 431)
        self.trailers = self._parse_trailers(block) if block else _NO_TRAILERS
        self._pos = self._scan = end
        self._state = IDLE
        return True

    def _partial_trailers(self, buf: bytes | bytearray, pos: int) -> bool:
        if len(buf) - pos > self.limits.trailer_bytes + 3:
            raise self.bad("trailers_too_large", "the trailers are too large", 431)
        if _BARE.search(buf, max(pos, self._scan - 1)):
            raise self.bad("bad_line_ending", "a bare CR, LF or NUL in the trailers")
        if self._eof:
            raise self.bad("truncated", "the connection ended inside the trailers")
        self._scan = max(pos, len(buf) - 3)
        return False

    def _parse_trailers(self, block: bytes) -> list[Field]:
        lines = block.split(b"\r\n")
        if len(lines) > self.limits.trailer_fields:
            raise self.bad("too_many_trailers", "too many trailer fields", 431)
        try:
            fields, _special = self._table.parse(lines)
        except BadField as error:
            raise self.bad("bad_trailer", str(error)) from None
        return [field for field in fields if field[0] not in PROTECTED]
