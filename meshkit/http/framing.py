"""Messages on a connection: where a head ends, and how its body is delimited.

Between messages a `MessageReader` looks for a head; inside one it hands out body
bytes, decoded:

    IDLE ──head()──▶ LENGTH / CHUNK_SIZE / UNTIL_EOF ──body()──▶ IDLE

Bytes after a message stay for the next one (pipelining).  A body with a length
is counted, never parsed.
"""

from __future__ import annotations

from typing import Final

from meshkit.http.buffer import CHUNK_SIZE, IDLE, LENGTH, UNTIL_EOF
from meshkit.http.chunked import BARE, ChunkedBuffer
from meshkit.http.errors import HTTPError
from meshkit.http.sniff import foreign

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
NO_LENGTH: Final = -3
"""For rendering only: no framing field at all (1xx, 204, HEAD without a length)."""


class MessageReader(ChunkedBuffer):
    """What requests and responses share."""

    __slots__ = ()

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
        start = max(self._pos, self._scan - 1)
        if BARE.search(buf, start):
            raise self.bad("bad_line_ending", self._no_lines(bytes(buf[self._pos : self._pos + 9])))
        end = buf.find(b"\r\n", start)
        if end > self._pos and buf.find(b"\n", self._pos, end) < 0:
            self._check_line(bytes(buf[self._pos : end]))
        if len(buf) - self._pos > self.limits.header_bytes:
            raise self._too_large(buf, self._pos)
        if self._eof and len(buf) > self._pos:
            raise self.bad("truncated", "the connection ended inside a head")
        self._scan = max(self._pos, len(buf) - 3)

    def _check_line(self, line: bytes) -> None:
        """Refuse a first line that is no HTTP: its sender waits for an answer, not to go on."""

    def _no_lines(self, data: bytes) -> str:
        """What is wrong with a head that begins so and has no proper lines."""
        known = foreign(data)
        if not known:
            return "a bare CR, LF or NUL in the head"
        if self._fault == 400:
            return f"the client speaks {known}, this port takes cleartext HTTP"
        port = "HTTP2 or GRPC" if known == "HTTP/2" else "HTTPS or TLS"
        return f"the endpoint answers in {known}: declare its port {port}"

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
            self._extensions = self._tiny = 0
            self._state = CHUNK_SIZE
        elif body == UNTIL_CLOSE:
            self._state = UNTIL_EOF

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
        buf, pos = self._buf, self._pos
        end = pos + self._remaining
        if self._state != LENGTH or len(buf) < end:
            return None
        self._remaining = 0
        self._state = IDLE
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
