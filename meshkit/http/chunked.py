"""Chunked bodies, read strictly (RFC 9112 section 7.1).

    CHUNK_SIZE ▶ CHUNK_DATA ▶ CHUNK_END ▶ CHUNK_SIZE … ▶ TRAILERS ▶ IDLE

The proxy always writes the coding anew: what two parsers may read differently
(signs, prefixes, bare LF, extensions) is refused or does not survive it.

A flood of tiny chunks is cheap to send and dear to read, so a request has a
bucket of them: each tiny chunk adds one (a few, if its size line is an odd one),
each read and each 64 bytes take some away.  Whoever writes tiny chunks as they
arise sends each with a write of its own and never fills it.
"""

from __future__ import annotations

import re

from meshkit.http.buffer import (
    CHUNK_DATA,
    CHUNK_END,
    CHUNK_SIZE,
    IDLE,
    NO_TRAILERS,
    TRAILERS,
    Buffer,
)
from meshkit.http.fields import PROTECTED, BadField, Field

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t -~\x80-\xff]*)?)\r\n")
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
"""A CR, LF or NUL that ends no line."""
_SMALL = {form % size: size for size in range(1, 256) for form in (b"%x", b"%X")}
"""Size lines of chunks so small that their lines cost more than their data."""
_TINY = 16
"""Bytes; chunks smaller than this on average are counted."""
_ODD = 4
"""What a small chunk counts that the fast path does not take (zeros in front, extensions)."""
_FREE = 16
"""Tiny chunks that each read may bring."""
_RUN = 512
"""Tiny chunks between two looks at the bucket."""


class ChunkedBuffer(Buffer):
    """A `Buffer` that can take a chunked body off its front."""

    __slots__ = ()

    def _chunked(self, n_max: int) -> bytes | None:
        """Join what chunks are at hand, up to ``n_max`` bytes of data."""
        parts: list[bytes] = []
        room, tiny, before = n_max, 0, len(self._buf) - self._pos
        while room:
            state = self._state
            if state == CHUNK_SIZE:
                had, known = room, len(parts)
                room = self._small_chunks(parts, room)
                tiny += max(0, len(parts) - known - (had - room) // _TINY)
                more = bool(room) and self._chunk_line()
                if more and self._remaining < 64 * _ODD:
                    tiny += _ODD - self._remaining // 64
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
            if not more or tiny > _RUN:
                break
        if tiny > _FREE or self._tiny:
            self._count_tiny(tiny, before - len(self._buf) + self._pos)
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _count_tiny(self, tiny: int, size: int) -> None:
        """Fill the bucket of this message; ``size``: bytes on the wire."""
        self._tiny = max(0, self._tiny + tiny - _FREE - size // 64)
        if self._tiny > self.limits.tiny_chunks > 0 and self._fault == 400:
            raise self.bad("tiny_chunks", "too many chunks of a few bytes")

    def _at_hand(self, parts: list[bytes]) -> bool:
        return not parts or self._pos < len(self._buf)

    def _small_chunks(self, parts: list[bytes], room: int) -> int:
        """Take the run of small whole chunks at the front; returns the room that is left.

        Only speed (four times that of the general path, so that a flood of
        one-byte chunks is no cheap attack): whatever is unusual stops it, and is
        judged there.
        """
        buf, pos = self._buf, self._pos
        if buf.__class__ is not bytes:
            buf = self._buf = bytes(buf)  # slices must be hashable
        for _ in range(_RUN):
            end = buf.find(b"\r\n", pos, pos + 4)
            size = _SMALL.get(buf[pos:end], 0) if end > pos else 0
            stop = end + 2 + size
            if not 0 < size <= room or buf[stop : stop + 2] != b"\r\n":
                break
            parts.append(buf[end + 2 : stop])
            room -= size
            pos = stop + 2
        self._pos = self._scan = pos
        return room

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
        self.trailers = self._parse_trailers(block) if block else NO_TRAILERS
        self._pos = self._scan = end
        self._state = IDLE
        return True

    def _partial_trailers(self, buf: bytes | bytearray, pos: int) -> bool:
        if len(buf) - pos > self.limits.trailer_bytes + 3:
            raise self.bad("trailers_too_large", "the trailers are too large", 431)
        if BARE.search(buf, max(pos, self._scan - 1)):
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
