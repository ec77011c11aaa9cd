"""The engine that carries the traffic: ngh2, which is libnghttp2 (docs/http2.md).

Everything it says comes as event objects in a list; they are dispatched by class
through one dict of plain functions, and their meaning is passed on as a call.
What it does that a proxy must know is in the comments here, each with the measure
against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ngh2

from meshkit.http.fields import Field
from meshkit.http.h2 import (
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    GoingAway,
    H2Error,
    Role,
    Settings,
    Sink,
    StreamsExhausted,
)
from meshkit.http.h2_base import LIVE, PEER_STREAMS, SILENT, TOLD, BaseEngine

_EAGER = 512
"""Bytes made as soon as input was read: enough for answers, too few for a body."""
_GLITCHES = (10_000, 330)
"""nghttp2's default for what it calls suspicious; a second net under our guard."""
_UNLIMITED = (1 << 32, 1 << 32)
"""For its bucket of resets: ours sees completed streams too, and is counted."""
_GONE = (ngh2.StreamUnavailableError, ngh2.StreamProtocolError, ngh2.ConnectionStateError)
"""The stream ended, or the whole connection did, and the event that says so is still to
be told."""
_ACK_BYTES = 17


class NGH2Engine(BaseEngine):
    """An `Engine` (see there for its methods) around one ngh2 connection."""

    __slots__ = ("_conn",)

    def __init__(self, role: Role, settings: Settings, sink: Sink) -> None:
        super().__init__(role, settings, sink)
        self._conn = ngh2.Connection(ngh2.Role(role), _configuration(settings))

    def start(self) -> None:
        settings = self._settings
        wire = {
            ngh2.Setting.MAX_CONCURRENT_STREAMS: settings.streams,
            ngh2.Setting.INITIAL_WINDOW_SIZE: settings.stream_window,
            ngh2.Setting.MAX_FRAME_SIZE: settings.frame_bytes,
            ngh2.Setting.MAX_HEADER_LIST_SIZE: settings.header_list,
        }
        if not self._server:
            wire[ngh2.Setting.ENABLE_PUSH] = 0
        if settings.connect:
            wire[ngh2.Setting.ENABLE_CONNECT_PROTOCOL] = 1
        self._conn.initiate_connection(wire)
        self._conn.set_local_window_size(settings.connection_window)

    # What comes in.

    def receive(self, data: bytes, now: float) -> None:
        if self._dead:
            self._raise()
            return
        conn = self._conn
        self._now = now
        try:
            conn.receive_data(self._guard.feed(data, now))
        except ngh2.NGH2Error as error:
            self._dispatch()
            raise self._fatal(error) from None
        except H2Error as error:
            raise self._fail(error) from None
        if conn.want_write and not self._tail and not conn.queued_body_size():
            # What the peer broke shows only as bytes are made (a GOAWAY among them).
            self._tail = conn.data_to_send(_EAGER)
            self._cut = len(self._tail) == _EAGER
        handlers = _HANDLERS
        for event in conn.events():
            handlers[event.__class__](self, event)
        if self._error is not None:
            self._raise()

    def _dispatch(self) -> None:
        handlers = _HANDLERS
        for event in self._conn.events():
            handlers[event.__class__](self, event)

    def _fatal(self, error: ngh2.NGH2Error) -> H2Error:
        """ngh2 gave up and freed its session: the GOAWAY is ours to write."""
        code, limit = PROTOCOL_ERROR, "h2_protocol_error"
        if isinstance(error, ngh2.DenialOfServiceError):
            code, limit = ENHANCE_YOUR_CALM, _flood(str(error))
        elif isinstance(error, ngh2.InternalError):
            code = INTERNAL_ERROR
        return self._fail(H2Error(code, limit, str(error)))

    def _fail(self, error: H2Error, frame: bool = True) -> H2Error:
        super()._fail(error, frame)
        self._conn = _NOTHING  # the owner may keep us for its last words; not the session
        return error

    def _on_end(self, event: ngh2.ConnectionClosed) -> None:
        """GOAWAYs are settled: the peer's, ours, or nghttp2's because of what came."""
        self.closing = True
        code = event.error_code
        if code == NO_ERROR or code == self._told:
            self._dead = True
            return
        if self._dead:
            return
        limit = "h2_flood" if code == ENHANCE_YOUR_CALM else "h2_protocol_error"
        reason = event.debug_data.decode("ascii", "replace") or "a rule of HTTP/2 was broken"
        self._error = self._fail(H2Error(code, limit, reason), frame=False)

    # What each event means.

    def _on_request(self, event: ngh2.RequestReceived) -> None:
        stream = event.stream_id
        self.last_stream = stream
        if self._guard.doomed and stream in self._guard.doomed:
            self._open[stream] = SILENT
            return
        self._open[stream] = LIVE
        self._sink.request(stream, event.headers, event.end_stream)

    def _on_response(self, event: ngh2.ResponseReceived) -> None:
        stream = event.stream_id
        if not self._open.get(stream):  # else it was reset, and only bytes on the way remain
            self._sink.response(stream, event.headers, event.end_stream)

    def _on_interim(self, event: ngh2.InformationalResponseReceived) -> None:
        stream = event.stream_id
        if self._interim_ok(stream):
            self._sink.interim(stream, event.headers)
        elif self._open.get(stream) == LIVE:
            self._sink.limit("h2_too_many_interim")
            self.reset(stream, ENHANCE_YOUR_CALM)
            self._sink.reset(stream, ENHANCE_YOUR_CALM, True)

    def _on_data(self, event: ngh2.DataReceived) -> None:
        stream, data, end = event.stream_id, event.data, event.end_stream
        if self._open.get(stream):
            if data:  # nobody waits for it any more
                self.taken(stream, len(data))
        elif data or end:
            self._sink.data(stream, data, end)

    def _on_trailers(self, event: ngh2.TrailersReceived) -> None:
        if not self._open.get(event.stream_id):
            self._sink.trailers(event.stream_id, event.headers)

    def _on_reset(self, event: ngh2.StreamReset) -> None:
        stream = event.stream_id
        if self._open.get(stream) == LIVE:
            self._open[stream] = TOLD
            self._sink.reset(stream, event.error_code, False)

    def _on_closed(self, event: ngh2.StreamClosed) -> None:
        stream, code = event.stream_id, event.error_code
        state = self._open.pop(stream, None)
        if self._interims:
            self._interims.pop(stream, None)
        if state == LIVE and not code:
            if self._guard.resets:
                self._guard.completed()
        elif state == LIVE:
            self._broken(stream, code, event.local_error)
        elif state is None:
            # An invalid request shows only here: it was never announced.
            self._sink.limit("h2_invalid_message")
            self._blame()
            return
        else:
            self._resets.pop(stream, None)
            if state == SILENT:
                return
        self._sink.closed(stream)

    def _broken(self, stream: int, code: int, late: ngh2.NGH2Error | None) -> None:
        """nghttp2 reset a stream by itself, or its request was never taken."""
        if code == REFUSED_STREAM and not self._server:
            self._sink.reset(stream, code, False)
            return
        if late is not None:
            self._sink.limit("h2_outbound_fields")
        else:
            self._sink.limit("h2_invalid_message")
            self._blame()
        self._sink.reset(stream, code, True)

    def _on_settings(self, event: ngh2.SettingsReceived) -> None:
        settings = event.settings
        self.peer_streams = settings.get(3, self.peer_streams)
        self.connect_protocol |= settings.get(8, 0) == 1
        self._sink.settings()
        if 4 in settings:
            self._sink.window(0)

    def _on_window(self, event: ngh2.WindowUpdated) -> None:
        stream = event.stream_id
        if not stream or stream in self._open:
            self._sink.window(stream)

    def _on_goaway(self, event: ngh2.GoAwayReceived) -> None:
        self.closing = True
        self._told = event.error_code
        self._sink.goaway(event.last_stream_id, event.error_code)

    def _on_ignored(self, event: ngh2.Event) -> None:
        pass

    # What goes out.

    @property
    def pending(self) -> bool:
        return bool(self._conn.want_write or self._tail or self._resets)

    def output(self, n: int = 65536) -> bytes:
        if self._tail or self._dead:
            return self._with_tail(n)
        conn = self._conn
        data = conn.data_to_send(n)
        if self._resets and len(data) < n and self._submit_resets():
            data += conn.data_to_send(n - len(data))
        if data:
            size = len(data)
            self._cut = size == n
            self._guard.sent += size
        # Closed streams, and what was wrong with a head, come to light as bytes are made.
        handlers = _HANDLERS
        for event in conn.events():
            handlers[event.__class__](self, event)
        return data

    def _with_tail(self, n: int) -> bytes:
        """What was made early, or is left of a connection that is over, goes first."""
        data, self._tail = self._tail[:n], self._tail[n:]
        if self._dead or len(data) == n:
            return data
        return data + self.output(n - len(data))

    def _submit_resets(self) -> bool:
        """All bytes that may go are out, so no queued response is lost to a reset."""
        conn, ready = self._conn, []
        for stream, code in self._resets.items():
            if code != NO_ERROR or not conn.queued_body_size(stream):
                ready.append((stream, code))
        for stream, code in ready:
            del self._resets[stream]
            conn.reset_stream(stream, code)
        return bool(ready)

    def request(self, fields: Sequence[Field], end: bool) -> int:
        if self.closing or self._dead:
            raise GoingAway("the connection takes no new streams")
        if len(self._open) >= self.peer_streams or len(self._open) >= self._settings.streams:
            raise StreamsExhausted("as many streams are open as may be")
        try:
            stream = self._conn.send_request(fields, end_stream=end)
        except ngh2.NoAvailableStreamIDError:
            raise StreamsExhausted("the connection's stream ids are used up") from None
        except ngh2.NGH2Error as error:
            raise GoingAway(str(error)) from None
        self._open[stream] = LIVE
        return stream

    def respond(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        if self._open.get(stream) == LIVE and not self._dead:
            try:
                self._conn.send_response(stream, fields, end_stream=end)
            except _GONE:
                pass

    def interim(self, stream: int, fields: Sequence[Field]) -> None:
        if self._open.get(stream) == LIVE and not self._dead:
            try:
                self._conn.send_informational_response(stream, fields)
            except _GONE:
                pass

    def send(self, stream: int, data: bytes, end: bool) -> None:
        if self._open.get(stream) == LIVE and not self._dead:
            try:
                self._conn.send_data(stream, data, end_stream=end)
            except _GONE:
                pass

    def trailers(self, stream: int, fields: Sequence[Field]) -> None:
        if self._open.get(stream) == LIVE and not self._dead:
            try:
                self._conn.send_trailers(stream, fields)
            except _GONE:
                pass

    def end(self, stream: int) -> None:
        self.send(stream, b"", True)

    def goaway(self, code: int, last: int | None = None) -> None:
        if self._dead:
            return
        self.closing = True
        try:
            if code == NO_ERROR:
                self._conn.send_goaway(code, last_stream_id=last)
                return
            self._told = code
            self._conn.terminate_connection(code, last_stream_id=last)
        except _GONE:
            return
        self._tail += self._conn.data_to_send()
        self._dead = True

    def notice(self) -> None:
        if self._server and not self._dead:
            try:
                # Not a GOAWAY like another: after one, an idle session takes nothing more.
                self._conn.send_shutdown_notice()
            except _GONE:
                return
            self.closing = True

    def ping(self, payload: bytes = bytes(8)) -> None:
        if not self._dead:
            try:
                self._conn.ping(payload)
            except _GONE:
                pass

    def queued(self, stream: int) -> int:
        return self._conn.queued_body_size(stream)

    def taken(self, stream: int, n: int) -> None:
        if not self._dead:
            try:
                self._conn.acknowledge_received_data(n, stream)
            except _GONE:
                pass

    @property
    def can_open(self) -> bool:
        held = len(self._open)
        return (
            held < self.peer_streams
            and held < self._settings.streams
            and not (self.closing or self._dead)
            and self._conn.can_send_request
        )

    @property
    def finished(self) -> bool:
        if self._tail:
            return False
        return self._dead or not (self._conn.want_read or self._conn.want_write)


_NOTHING = ngh2.Connection(ngh2.Role.SERVER)
"""In place of a session that is over: it holds nothing and says nothing."""


def _flood(message: str) -> str:
    """Which limit of ngh2 ended the connection; it says so in words only."""
    for word, limit in _FLOODS.items():
        if word in message:
            return limit
    return "h2_flood"


_FLOODS = {
    "header list": "h2_header_bomb",
    "continuation": "h2_continuation_flood",
    "CONTINUATION": "h2_continuation_flood",
    "looding": "h2_control_flood",
}


def _configuration(settings: Settings) -> ngh2.Configuration:
    known = _configurations.get(settings)
    if known is None:
        _configurations[settings] = known = ngh2.Configuration(
            auto_window_update=False,
            peer_max_concurrent_streams=PEER_STREAMS,
            max_send_header_block_length=settings.send_field_bytes,
            max_outbound_ack=min(settings.control_frames, settings.control_bytes // _ACK_BYTES),
            max_settings=settings.settings_entries,
            max_continuations=settings.continuations + 1,
            stream_reset_rate_limit=_UNLIMITED,
            glitch_rate_limit=_GLITCHES,
            max_inbound_header_list_size=settings.field_bytes_cap,
            max_inbound_header_count=settings.fields_cap,
        )
    return known


_configurations: dict[Settings, ngh2.Configuration] = {}
"""One a role and set of limits; a process has a handful."""

_HANDLERS: dict[type[ngh2.Event], Callable[[NGH2Engine, Any], None]] = {
    ngh2.RequestReceived: NGH2Engine._on_request,
    ngh2.ResponseReceived: NGH2Engine._on_response,
    ngh2.InformationalResponseReceived: NGH2Engine._on_interim,
    ngh2.DataReceived: NGH2Engine._on_data,
    ngh2.TrailersReceived: NGH2Engine._on_trailers,
    ngh2.StreamReset: NGH2Engine._on_reset,
    ngh2.StreamClosed: NGH2Engine._on_closed,
    ngh2.SettingsReceived: NGH2Engine._on_settings,
    ngh2.WindowUpdated: NGH2Engine._on_window,
    ngh2.GoAwayReceived: NGH2Engine._on_goaway,
    ngh2.SettingsAcknowledged: NGH2Engine._on_ignored,
    ngh2.PingReceived: NGH2Engine._on_ignored,
    ngh2.PingAcknowledged: NGH2Engine._on_ignored,
    ngh2.ConnectionClosed: NGH2Engine._on_end,
    ngh2.PushedStreamReceived: NGH2Engine._on_ignored,
    ngh2.AltSvcReceived: NGH2Engine._on_ignored,
    ngh2.OriginReceived: NGH2Engine._on_ignored,
    ngh2.PriorityUpdateReceived: NGH2Engine._on_ignored,
}
