"""The rolling buffer of one direction of a connection.

Three costs shape it: bytes that came whole are cut out with one copy, or none;
nothing is searched twice, so a peer that sends byte by byte costs linear time;
and it never holds more than one limit's worth plus one read, because the caller
feeds only when told that more is needed.
"""

from __future__ import annotations

from meshkit.http.errors import HTTPError
from meshkit.http.fields import Field, FieldTable
from meshkit.http.limits import Limits

IDLE, LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS, UNTIL_EOF = range(7)
"""Where in a message the buffer's front is; see `meshkit.http.framing`."""

NO_TRAILERS: list[Field] = []


class Buffer:
    """Received bytes from ``_pos`` on.  ``_fault`` is the status of a refusal."""

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
        "_tiny",
        "limits",
        "trailers",
    )

    def __init__(self, limits: Limits, table: FieldTable, fault: int) -> None:
        self.limits = limits
        self.trailers: list[Field] = NO_TRAILERS
        self._table = table
        self._fault = fault
        self._buf: bytes | bytearray = b""
        self._pos = 0
        self._scan = 0
        self._state = IDLE
        self._remaining = 0
        self._extensions = 0
        self._tiny = 0
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

    def rest(self) -> bytes:
        """All that was received and not used: this connection carries no further message."""
        data = bytes(memoryview(self._buf)[self._pos :])
        self._buf, self._pos, self._scan = b"", 0, 0
        return data

    def eof(self) -> None:
        """The peer will send no more; what is incomplete now becomes an error."""
        self._eof = True

    def bad(self, code: str, message: str, status: int = 0) -> HTTPError:
        """An error of this message; responses are always the upstream's fault, 502."""
        return HTTPError(status if status and self._fault == 400 else self._fault, code, message)

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
