"""HTTP/2 as the data plane uses it: one interface, two engines (RFC 9113).

An engine is one connection's protocol state, without socket, clock or opinion:
bytes go in with `Engine.receive`, what they mean comes out as calls on a `Sink`,
and `Engine.output` gives the bytes that may go on the wire now.  Calls instead of
event objects, because a request/response pair costs 7 µs in the codec itself and
objects of our own would add half of that again.

Rules that both engines keep:

- Flow control is manual.  Every byte given to `Sink.data` must come back through
  `Engine.taken`, also after `closed` (dropped bytes count as taken): a stream's
  window and the connection's open again by nothing else.
- `send` queues without bound; the caller watches `queued`.
- A reset waits until what is queued before it and may go is in `output`, so that a
  response and a reset in one turn are both seen.  With code NO_ERROR it waits until
  the whole queue of its stream has gone ("enough of your request", RFC 9113 8.1).
- A stream that is gone ignores what is asked of it; `closed` was told, or will be.
- A message that breaks the rules costs its stream, and is counted (`Sink.limit`);
  the connection ends only where the RFC or a flood limit says so (`H2Error`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol

from meshkit.http.fields import Field
from meshkit.http.limits import Limits

Role = Literal["client", "server"]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 section 3.4)."""

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM = 4, 5, 6, 7
CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = 8, 9, 10, 11
INADEQUATE_SECURITY, HTTP_1_1_REQUIRED = 12, 13
LAST_STREAM: Final = 2**31 - 1


def goaway_frame(last_stream: int, code: int) -> bytes:
    """A GOAWAY without debug data (RFC 9113 section 6.8)."""
    return b"\0\0\x08\x07\0\0\0\0\0" + last_stream.to_bytes(4) + code.to_bytes(4)


class H2Error(Exception):
    """The connection must end; a GOAWAY with ``code`` is already in `Engine.output`.

    ``limit`` is the label it was counted under (the sink has been told), ``message``
    one line for a person.
    """

    def __init__(self, code: int, limit: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.limit = limit
        self.message = message

    def __str__(self) -> str:
        return f"{self.limit} (HTTP/2 error {self.code}): {self.message}"


class StreamsExhausted(Exception):
    """No stream may be opened now (the peer's limit, or ours), or ever (ids used up)."""


class GoingAway(Exception):
    """The connection takes no new streams; open another."""


class Sink(Protocol):
    """What a connection's owner is told, in wire order.  May call the engine back."""

    def request(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        """Server: a request's fields, pseudo-fields first, as received."""

    def response(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        """Client: the final response's fields, ``:status`` first."""

    def interim(self, stream: int, fields: Sequence[Field]) -> None:
        """Client: a 1xx response."""

    def data(self, stream: int, data: bytes, end: bool) -> None:
        """Body bytes, never empty unless ``end``; owed to `Engine.taken`."""

    def trailers(self, stream: int, fields: Sequence[Field]) -> None:
        """The message ends with these."""

    def reset(self, stream: int, code: int, ours: bool) -> None:
        """The peer's RST_STREAM, or the engine's own because of what the peer sent."""

    def closed(self, stream: int) -> None:
        """Both sides are done with a stream that was announced; told once."""

    def window(self, stream: int) -> None:
        """More may be sent; 0 = on the connection, so on any stream."""

    def goaway(self, last_stream: int, code: int) -> None:
        """The peer takes no new streams; those above ``last_stream`` were refused."""

    def settings(self) -> None:
        """The peer's SETTINGS arrived: `Engine.peer_streams` and others may differ."""

    def limit(self, code: str) -> None:
        """A limit or rule was hit: the label of a counter."""


class Engine(Protocol):
    """One connection.  ``now`` is any clock in seconds that never goes back."""

    def start(self) -> None:
        """Queue what a connection begins with (preface, SETTINGS)."""

    def detach(self) -> None:
        """The connection is gone and the sink is told nothing more: owner and engine
        hold each other, and what libnghttp2 holds is 29 kB."""

    def receive(self, data: bytes, now: float) -> None:
        """Bytes of the peer.  Raises H2Error when the connection must end.

        An end may also come to light in `output`, while bodies are being sent: then
        `finished` is True afterwards, and the next `receive` raises.
        """

    @property
    def pending(self) -> bool:
        """`output` may have something to give; asked after each read, so it is cheap."""

    def output(self, n: int = 65536) -> bytes:
        """The next at most ``n`` bytes for the wire; b"" = nothing may go now."""

    def request(self, fields: Sequence[Field], end: bool) -> int:
        """Open a stream.  Raises StreamsExhausted or GoingAway."""

    def respond(self, stream: int, fields: Sequence[Field], end: bool) -> None: ...
    def interim(self, stream: int, fields: Sequence[Field]) -> None: ...
    def send(self, stream: int, data: bytes, end: bool) -> None: ...
    def trailers(self, stream: int, fields: Sequence[Field]) -> None: ...
    def end(self, stream: int) -> None: ...

    def reset(self, stream: int, code: int) -> None:
        """End a stream; `Sink.reset` is not called for it, `Sink.closed` is."""

    def blame(self) -> None:
        """A message of the peer was refused with an answer: counts like a reset that it
        provoked (resets with a code that blames the peer count by themselves)."""

    def goaway(self, code: int, last: int | None = None) -> None:
        """With NO_ERROR streams up to ``last`` (default: all seen) go on; else none."""

    def notice(self) -> None:
        """Server: "open no more streams", refusing none yet (RFC 9113 section 6.8)."""

    def ping(self, payload: bytes = bytes(8)) -> None: ...

    def queued(self, stream: int) -> int:
        """Body bytes of `send` that are not in `output` yet."""

    def taken(self, stream: int, n: int) -> None:
        """``n`` bytes of `Sink.data` need no memory any more: credit for the peer."""

    @property
    def can_open(self) -> bool:
        """`request` would not raise now."""

    @property
    def peer_streams(self) -> int:
        """Streams that the peer lets us have open at once."""

    @property
    def streams(self) -> int:
        """Streams that are open."""

    @property
    def last_stream(self) -> int:
        """The highest id of a peer's stream that was announced; 0 = none."""

    @property
    def connect_protocol(self) -> bool:
        """The peer takes extended CONNECT (RFC 8441)."""

    @property
    def closing(self) -> bool:
        """A GOAWAY was sent or received (or `notice`): no new streams."""

    @property
    def finished(self) -> bool:
        """Nothing more will be read or written: close the transport."""


class Settings(NamedTuple):
    """What one connection announces and holds to; made of `Limits` by `settings_of`.

    ``field_bytes_cap`` and ``fields_cap`` are where a header list ends the whole
    connection (a bomb); what is between them and the limits of a head is answered
    with 431 on its stream, by `meshkit.http.h2_head`.
    """

    streams: int
    stream_window: int
    connection_window: int
    frame_bytes: int
    header_list: int
    field_bytes_cap: int
    fields_cap: int
    continuations: int
    send_field_bytes: int
    reset_burst: int
    reset_rate: int
    ping_burst: int
    ping_rate: int
    settings_burst: int
    settings_rate: int
    settings_entries: int
    control_frames: int
    control_bytes: int
    idle_frames: int
    interim_responses: int
    connect: bool


_FIELD_OVERHEAD = 32
"""Bytes a field counts beside its name and value (RFC 9113 section 6.5.2)."""
_BOMB = 2
"""A list this many times over our limit is no mistake any more: the connection ends."""
_ADDED = 8 * 1024
"""What the mesh itself adds to a head on its way (facts, certificates, ids)."""


def settings_of(limits: Limits, role: Role, connect: bool = True) -> Settings:
    """The settings for a connection; compute once per role and set of limits.

    A client's connection window is that of all its streams together: with less, a few
    readers that stopped starve every other stream of a shared connection.
    """
    overhead = _FIELD_OVERHEAD * limits.header_fields
    room = limits.http2_streams * limits.http2_stream_window
    window = limits.http2_connection_window if role == "server" else room
    return Settings(
        streams=limits.http2_streams,
        stream_window=limits.http2_stream_window,
        connection_window=min(max(window, limits.http2_stream_window), LAST_STREAM),
        frame_bytes=limits.http2_frame_bytes,
        header_list=limits.header_bytes + overhead,
        field_bytes_cap=_BOMB * (limits.header_bytes + overhead),
        fields_cap=_BOMB * limits.header_fields,
        continuations=limits.http2_continuations,
        send_field_bytes=limits.header_bytes + overhead + _ADDED,
        reset_burst=limits.http2_resets_burst,
        reset_rate=limits.http2_resets_per_second,
        ping_burst=limits.http2_pings_burst,
        ping_rate=limits.http2_pings_per_second,
        settings_burst=limits.http2_settings_burst,
        settings_rate=limits.http2_settings_per_second,
        settings_entries=limits.http2_settings_entries,
        control_frames=limits.http2_control_frames,
        control_bytes=limits.http2_control_bytes,
        idle_frames=limits.http2_idle_frames,
        interim_responses=limits.interim_responses,
        connect=connect and role == "server",
    )


def new_engine(role: Role, settings: Settings, sink: Sink, engine: str = "") -> Engine:
    """A connection's engine: ``"ngh2"``, ``"h2"``, or "" for the best that is there."""
    if engine not in ("", "ngh2", "h2"):
        raise ValueError(f"no such HTTP/2 engine: {engine}")
    if engine != "h2":
        try:
            from meshkit.http.h2_ngh2 import NGH2Engine
        except ImportError:
            if engine:
                raise
        else:
            return NGH2Engine(role, settings, sink)
    from meshkit.http.h2_hyper import HyperEngine

    return HyperEngine(role, settings, sink)
