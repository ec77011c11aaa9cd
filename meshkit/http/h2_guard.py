"""What a hostile peer can make us do for a few bytes, and where that ends.

HTTP/2 has frames that cost their sender nothing and us something.  Each kind is
charged to a bucket; a bucket that runs over ends the connection with
ENHANCE_YOUR_CALM, and its label says which it was:

| bucket    | filled by                                             | drained by               |
|-----------|-------------------------------------------------------|--------------------------|
| resets    | RST_STREAM; resets of ours that the peer provoked     | time, completed streams  |
| pings     | PING                                                  | time, bytes either way   |
| settings  | SETTINGS                                              | time                     |
| idle      | frames without progress: empty or tiny DATA, acks of  | time, bytes either way,  |
|           | PING, WINDOW_UPDATE, PRIORITY, unknown types          | reads (some free a read) |

Bytes drain because work grows with them: whoever sends or takes 64 bytes has paid for
one small frame; real clients that ping or open windows as data flows never fill a
bucket.  A completed stream takes one reset back, so a busy peer with one caller in
ten that gives up lives on, while one that only resets does not.

Frames are looked at before the codec sees them, so a flood costs 0.2 µs a frame at
most, and nothing of the read that runs a bucket over is processed.  Runs of small DATA
frames of a stream become one frame: streaming many tiny messages is legitimate, and
must not cost an event each.  What is handed on never ends inside a frame's header
(ngh2 0.3 would count every read of one as a CONTINUATION).
"""

from __future__ import annotations

from struct import Struct

from meshkit.http.h2 import (
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PREFACE,
    H2Error,
    Role,
    Settings,
)

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
HEADER_BYTES = 9
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8

_HEAD = Struct(">IBI").unpack_from
"""Length and type, flags, stream."""
_KIND = Struct(">IB").unpack_from
"""The same without the stream."""
_BYTES_A_FRAME = 64
"""Bytes sent or received that pay for one small frame."""
_FREE = 16
"""Frames without progress that one read may bring: a peer that writes as things arise."""
_IDLE_PER_SECOND = 100
_TINY = 5
"""DATA below this is less than an empty gRPC message: no application streams so."""
_SMALL, _RUN = 256, 32
"""DATA frames under 256 bytes are merged where one read brings more than 32 of them."""


class Guard:
    """One per connection and direction in."""

    __slots__ = (
        *("_block", "_bytes", "_held", "_idle", "_last", "_pings", "_server"),
        *("_settings_frames", "_skip", "doomed", "resets", "sent", "settings"),
    )

    def __init__(self, role: Role, settings: Settings) -> None:
        self._server = role == "server"
        self.settings = settings
        self._skip = len(PREFACE) if self._server else 0
        self._held = b""
        self._block = -1
        self._bytes = self.sent = 0
        self._last = 0.0
        self._idle = self._pings = self.resets = self._settings_frames = 0.0
        """`resets` > 0: streams that complete are worth telling to `completed`."""
        self.doomed: set[int] = set()
        """Streams that the last read also reset: nobody need hear of their requests."""

    def feed(self, data: bytes, now: float) -> bytes:
        """Judge what was read; returns what the codec may have.  Raises H2Error."""
        if self._held:
            data = self._held + data
            self._held = b""
        size, pos = len(data), self._skip
        self._bytes += size
        largest = self.settings.frame_bytes
        if not pos and HEADER_BYTES <= size <= largest and not self.doomed:
            # A read that is one whole head and nothing else, or with one DATA frame behind it:
            # most of them, where requests come one by one.  Nothing below would count it.
            word, _ = _KIND(data, 0)
            if word & 0xFF == HEADERS:
                end = HEADER_BYTES + (word >> 8)
                if end + HEADER_BYTES + _SMALL <= size:
                    word, flags = _KIND(data, end)
                    if word & 0xFF == DATA and not flags & PADDED:
                        end += HEADER_BYTES + (word >> 8)
                if end == size:
                    self._block = 0
                    return data
        idle = small = 0
        odd: list[tuple[int, int]] | None = None
        while pos + HEADER_BYTES <= size:
            word, flags = _KIND(data, pos)
            length = word >> 8
            if length > largest:
                raise H2Error(FRAME_SIZE_ERROR, "h2_frame_too_large", _too_large(data, pos))
            kind = word & 0xFF
            if kind == DATA:
                if length < _SMALL:
                    small += 1
                    if length < _TINY and not flags & END_STREAM:
                        idle += 1
                    elif flags & PADDED and length and pos + HEADER_BYTES < size:
                        idle += length - 1 - data[pos + HEADER_BYTES] < _TINY
            elif kind == HEADERS:
                self._block = 0
            elif kind == WINDOW_UPDATE:
                idle += 1
            elif odd is None:
                odd = [(kind, pos)]
            else:
                odd.append((kind, pos))
            pos += HEADER_BYTES + length
        if idle or odd:
            if self.doomed:
                self.doomed.clear()
            self._refill(now)
            if odd:
                idle += self._count(odd, data)
            self._charge_idle(idle)
        elif self.doomed:
            self.doomed.clear()
        if small > _RUN:
            data = _merged(data, self._skip)
            pos += len(data) - size
            size = len(data)
        if pos <= size:
            self._skip = 0
            if pos < size:
                self._held = data[pos:]
                return data[:pos]
            return data
        self._skip = pos - size
        return data

    def provoked(self, now: float | None = None) -> None:
        """We must reset a stream, or refuse a message, because of what the peer sent.

        Raises H2Error."""
        if now is not None:
            self._refill(now)
        self.resets += 1
        if self.resets > self.settings.reset_burst:
            raise _flood("h2_provoked_resets", "too many of its streams had to be reset")

    def completed(self) -> None:
        """A stream ended as it should."""
        if self.resets >= 1:
            self.resets -= 1

    def _refill(self, now: float) -> None:
        settings = self.settings
        elapsed = max(0.0, now - self._last)
        self._last = now
        paid = (self._bytes + self.sent) / _BYTES_A_FRAME
        self._bytes = self.sent = 0
        self._idle = max(0.0, self._idle - paid - elapsed * _IDLE_PER_SECOND)
        self._pings = max(0.0, self._pings - paid - elapsed * settings.ping_rate)
        self.resets = max(0.0, self.resets - elapsed * settings.reset_rate)
        self._settings_frames = max(0.0, self._settings_frames - elapsed * settings.settings_rate)

    def _charge_idle(self, idle: int) -> None:
        if idle > _FREE:
            self._idle += idle - _FREE
            if self._idle > self.settings.idle_frames:
                raise _flood("h2_idle_frames", "too many frames without progress")

    def _count(self, odd: list[tuple[int, int]], data: bytes) -> int:
        """Charge the rarer kinds; returns how many of them are plainly idle."""
        idle = 0
        for kind, pos in odd:
            if kind == RST_STREAM:
                self._count_reset(data, pos)
            elif kind == CONTINUATION:
                self._count_continuation()
            elif kind == PING:
                idle += self._count_ping(data[pos + 4])
            elif kind == SETTINGS:
                self._count_settings(data, pos)
            elif kind == PUSH_PROMISE:
                self._block = 0
            elif kind != GOAWAY:
                idle += 1
        return idle

    def _count_reset(self, data: bytes, pos: int) -> None:
        self.doomed.add(int.from_bytes(data[pos + 5 : pos + 9]) & 0x7FFFFFFF)
        if not self._server and data[pos + 9 : pos + 13] == bytes(4):
            return  # a server may end every early answer so (RFC 9113 section 8.1)
        self.resets += 1
        if self.resets > self.settings.reset_burst:
            raise _flood("h2_rapid_reset", "too many streams reset")

    def _count_continuation(self) -> None:
        self._block += 1
        if self._block > self.settings.continuations:
            raise _flood("h2_continuation_flood", "too many CONTINUATION frames in a block")

    def _count_ping(self, flags: int) -> int:
        if flags & ACK:
            return 1
        self._pings += 1
        if self._pings > self.settings.ping_burst:
            raise _flood("h2_ping_flood", "too many PINGs")
        return 0

    def _count_settings(self, data: bytes, pos: int) -> None:
        if data[pos + 4] & ACK:
            return
        entries = int.from_bytes(data[pos : pos + 3]) // 6
        self._settings_frames += 1
        if entries > self.settings.settings_entries:
            raise _flood("h2_settings_flood", "too many entries in one SETTINGS frame")
        if self._settings_frames > self.settings.settings_burst:
            raise _flood("h2_settings_flood", "too many SETTINGS frames")


def _too_large(data: bytes, pos: int) -> str:
    if data.startswith(b"HTTP/1.", pos):  # read as a frame: 4.7 MB of an unknown type
        return "the endpoint answers in HTTP/1.1: declare its port HTTP"
    return "a frame over our limit"


def _flood(limit: str, message: str) -> H2Error:
    return H2Error(ENHANCE_YOUR_CALM, limit, message)


def _merged(data: bytes, start: int) -> bytes:
    """``data`` with every run of small, plain DATA frames of one stream made one frame."""
    parts = [data[:start]]
    run: list[bytes] = []
    running, held = -1, 0
    pos, size = start, len(data)
    while pos + HEADER_BYTES <= size:
        word, flags, stream = _HEAD(data, pos)
        end = pos + HEADER_BYTES + (word >> 8)
        if word & 0xFF == DATA and not flags and word >> 8 < _SMALL and end <= size:
            if stream != running or held > _MERGED:
                _flush(parts, run, running, held)
                running, held = stream, 0
            run.append(data[pos + HEADER_BYTES : end])
            held += word >> 8
        else:
            _flush(parts, run, running, held)
            running, held = -1, 0
            parts.append(data[pos:end])
        pos = end
    _flush(parts, run, running, held)
    if pos < size:
        parts.append(data[pos:])
    return b"".join(parts)


_MERGED = 8192


def _flush(parts: list[bytes], run: list[bytes], stream: int, size: int) -> None:
    if run:
        parts.append(b"%b\0\0%b" % (size.to_bytes(3), stream.to_bytes(4)))
        parts += run
        run.clear()


__all__ = ["GOAWAY", "HEADERS", "HEADER_BYTES", "Guard"]
