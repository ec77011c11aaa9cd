"""The fallback engine, on the pure-Python package h2; also the oracle of the other.

It costs about twenty times what ngh2 does (docs/http2.md).  h2 keeps no queues, no
graceful GOAWAY and no stream errors for malformed messages, so those are here: bodies
wait in a queue a stream and go out as windows allow, GOAWAY frames are read and written
without h2 (it would take either for the end), and messages are judged by `h2_rules`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from meshkit.http.fields import Field
from meshkit.http.h2 import (
    ENHANCE_YOUR_CALM,
    LAST_STREAM,
    NO_ERROR,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    GoingAway,
    H2Error,
    Role,
    Settings,
    Sink,
    StreamsExhausted,
    goaway_frame,
)
from meshkit.http.h2_base import LIVE, SILENT, TOLD, BaseEngine
from meshkit.http.h2_guard import GOAWAY, HEADER_BYTES, HEADERS
from meshkit.http.h2_rules import request_ok, response_ok, trailers_ok

_CODES = h2.settings.SettingCodes
_WITHOUT_BODY = (b"204", b"304")
_WINDOW = 65535
"""A connection's window before anybody changes it (RFC 9113 section 6.9.2)."""


class _Body:
    """What a stream still has to send, and which of its sides have ended."""

    __slots__ = ("chunks", "ended", "here", "none_comes", "pending", "there", "trailers")

    def __init__(self, here: bool, there: bool) -> None:
        self.chunks: deque[bytes] = deque()
        self.pending = 0
        self.ended = False
        self.trailers: list[Field] | None = None
        self.here, self.there = here, there
        self.none_comes = False
        """The answer is one without a body: h2 looks at lengths, and at HEAD only."""


class HyperEngine(BaseEngine):
    """An `Engine` (see there for its methods) around one h2 connection."""

    __slots__ = ("_bodies", "_conn", "_in", "_last", "_out", "_preface", "_stop")

    def __init__(self, role: Role, settings: Settings, sink: Sink) -> None:
        super().__init__(role, settings, sink)
        config = h2.config.H2Configuration(
            client_side=not self._server,
            header_encoding=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
        )
        self._conn = h2.connection.H2Connection(config)
        self._bodies: dict[int, _Body] = {}
        self._in = b""
        self._out = bytearray()
        self._preface = len(PREFACE) if self._server else 0
        self._last = 0
        self._stop = LAST_STREAM

    def start(self) -> None:
        settings, conn = self._settings, self._conn
        values: dict[h2.settings.SettingCodes, int] = {
            _CODES.MAX_CONCURRENT_STREAMS: settings.streams,
            _CODES.INITIAL_WINDOW_SIZE: settings.stream_window,
            _CODES.MAX_FRAME_SIZE: settings.frame_bytes,
            _CODES.MAX_HEADER_LIST_SIZE: settings.header_list,
            _CODES.ENABLE_CONNECT_PROTOCOL: int(settings.connect),
        }
        if not self._server:
            values[_CODES.ENABLE_PUSH] = 0
        conn.local_settings = h2.settings.Settings(client=not self._server, initial_values=values)
        conn.initiate_connection()
        conn.decoder.max_header_list_size = settings.field_bytes_cap
        if settings.connection_window > _WINDOW:
            conn.increment_flow_control_window(settings.connection_window - _WINDOW)

    # What comes in.

    def receive(self, data: bytes, now: float) -> None:
        if self._dead:
            self._raise()
            return
        self._now = now
        try:
            self._frames(self._guard.feed(data, now))
        except h2.exceptions.ProtocolError as error:
            raise self._fail(_error_of(error), frame=False) from None  # h2 wrote one
        except H2Error as error:
            raise self._fail(error) from None
        self._raise()

    def _frames(self, data: bytes) -> None:
        """Whole frames one by one: what came before a bad one is told before it ends us."""
        data = self._in + data
        pos = 0
        if self._preface:
            pos, left = min(self._preface, len(data)), self._preface
            if data[:pos] != PREFACE[-left:][:pos]:
                raise H2Error(PROTOCOL_ERROR, "h2_protocol_error", "no HTTP/2 preface")
            self._preface -= pos
            self._conn.receive_data(data[:pos])
        while pos + HEADER_BYTES <= len(data):
            end = pos + HEADER_BYTES + int.from_bytes(data[pos : pos + 3])
            if end > len(data) or self._dead:
                break
            if data[pos + 3] == GOAWAY:
                self._peer_goes(data[pos:end])
            else:
                if data[pos + 3] == HEADERS:
                    self._stale(int.from_bytes(data[pos + 5 : pos + 9]) & LAST_STREAM)
                for event in self._conn.receive_data(data[pos:end]):
                    _HANDLERS.get(event.__class__, _ignored)(self, event)
            self._bounded()
            pos = end
        self._in = data[pos:]

    def _stale(self, stream: int) -> None:
        """h2 answers a head on a stream of the past with a reset each, and tells nobody."""
        if self._server and stream <= self.last_stream and stream not in self._open:
            self._blame()

    def _bounded(self) -> None:
        waiting = len(self._conn._data_to_send) + len(self._out)
        if waiting > self._settings.control_bytes + self._settings.frame_bytes:
            raise H2Error(ENHANCE_YOUR_CALM, "h2_control_flood", "answers that nobody reads")

    def _peer_goes(self, frame: bytes) -> None:
        if len(frame) < HEADER_BYTES + 8 or frame[5:9] != bytes(4):
            raise H2Error(PROTOCOL_ERROR, "h2_protocol_error", "a malformed GOAWAY")
        self.closing = True
        last = int.from_bytes(frame[9:13]) & LAST_STREAM
        code = int.from_bytes(frame[13:17])
        self._sink.goaway(last, code)
        if not self._server:
            self._stop = min(self._stop, last)
            for stream in [s for s in self._open if s > last]:
                live = self._open.pop(stream) == LIVE
                self._bodies.pop(stream, None)
                if live:
                    self._sink.reset(stream, REFUSED_STREAM, False)
                self._sink.closed(stream)

    def _on_request(self, event: h2.events.RequestReceived) -> None:
        stream, end = event.stream_id, event.stream_ended is not None
        fields = _plain(event.headers)
        if stream > self._stop:
            self._conn.reset_stream(stream, REFUSED_STREAM)
        elif len(fields) > self._settings.fields_cap:
            raise H2Error(ENHANCE_YOUR_CALM, "h2_header_bomb", "far too many fields")
        elif not request_ok(fields, end):
            self._conn.reset_stream(stream, PROTOCOL_ERROR)
            self._sink.limit("h2_invalid_message")
            self._blame()
        else:
            self.last_stream = stream
            self._bodies[stream] = _Body(False, end)
            if stream in self._guard.doomed:
                self._open[stream] = SILENT
            else:
                self._open[stream] = LIVE
                self._sink.request(stream, fields, end)

    def _on_response(self, event: h2.events.ResponseReceived) -> None:
        stream, end = event.stream_id, event.stream_ended is not None
        fields = _plain(event.headers)
        if not response_ok(fields):
            self._invalid(stream)
        elif self._open.get(stream) == LIVE:
            self._bodies[stream].none_comes = fields[0][1] in _WITHOUT_BODY
            self._sink.response(stream, fields, end)
        if end:
            self._there(stream)

    def _on_interim(self, event: h2.events.InformationalResponseReceived) -> None:
        stream, fields = event.stream_id, _plain(event.headers)
        if not response_ok(fields):
            self._invalid(stream)
        elif not self._interim_ok(stream):
            self._invalid(stream, "h2_too_many_interim", ENHANCE_YOUR_CALM)
        elif self._open.get(stream) == LIVE:
            self._sink.interim(stream, fields)

    def _on_data(self, event: h2.events.DataReceived) -> None:
        stream, data, end = event.stream_id, event.data, event.stream_ended is not None
        live = self._open.get(stream) == LIVE
        spare = event.flow_controlled_length - (len(data) if live else 0)
        if spare:
            self._conn.acknowledge_received_data(spare, stream)
        if live and data and self._bodies[stream].none_comes:
            self._conn.acknowledge_received_data(len(data), stream)
            self._invalid(stream)
            return
        if live and (data or end):
            self._sink.data(stream, data, end)
        if end:
            self._there(stream)

    def _on_trailers(self, event: h2.events.TrailersReceived) -> None:
        stream, fields = event.stream_id, _plain(event.headers)
        if not trailers_ok(fields):
            self._invalid(stream)
        elif self._open.get(stream) == LIVE:
            self._sink.trailers(stream, fields)
        self._there(stream)

    def _invalid(
        self, stream: int, limit: str = "h2_invalid_message", code: int = PROTOCOL_ERROR
    ) -> None:
        if self._open.get(stream) == LIVE:
            self._sink.limit(limit)
            self._blame()
            self._reset_now(stream, code)
            self._sink.reset(stream, code, True)
            self._gone(stream)

    def _on_reset(self, event: h2.events.StreamReset) -> None:
        stream, ours = event.stream_id, not event.remote_reset
        if self._open.get(stream) == LIVE:
            self._open[stream] = TOLD
            code = int(event.error_code)
            if ours:
                self._sink.limit("h2_invalid_message")
            self._sink.reset(stream, code, ours)
        if ours:
            self._blame()
        self._gone(stream)

    def _on_settings(self, event: h2.events.RemoteSettingsChanged) -> None:
        remote = self._conn.remote_settings
        if _CODES.MAX_CONCURRENT_STREAMS in event.changed_settings:
            self.peer_streams = remote.max_concurrent_streams
        self.connect_protocol |= remote.enable_connect_protocol == 1
        self._sink.settings()
        if _CODES.INITIAL_WINDOW_SIZE in event.changed_settings:
            self._sink.window(0)

    def _on_window(self, event: h2.events.WindowUpdated) -> None:
        stream = event.stream_id or 0
        if not stream or stream in self._open:
            self._sink.window(stream)

    def _there(self, stream: int) -> None:
        body = self._bodies.get(stream)
        if body is not None:
            body.there = True
            self._check(stream, body)

    def _check(self, stream: int, body: _Body) -> None:
        if body.here and body.there:
            if self._open.get(stream) == LIVE:
                self._guard.completed()
            self._gone(stream)

    def _gone(self, stream: int) -> None:
        self._bodies.pop(stream, None)
        self._resets.pop(stream, None)
        self._interims.pop(stream, None)
        state = self._open.pop(stream, None)
        if state is not None and state != SILENT:
            self._sink.closed(stream)

    # What goes out.

    @property
    def pending(self) -> bool:
        return True

    def output(self, n: int = 65536) -> bytes:
        out = self._out
        if not self._dead:
            for stream, body in list(self._bodies.items()):
                if len(out) + len(self._conn._data_to_send) >= n:
                    break
                self._pump(stream, body, n)
            self._due_resets()
            out += self._conn.data_to_send()
        else:
            out += self._conn.data_to_send() + self._tail
            self._tail = b""
        data = bytes(out[:n])
        del out[:n]
        self._guard.sent += len(data)
        return data

    def _pump(self, stream: int, body: _Body, n: int) -> None:
        """Queued bytes become DATA frames, as far as the windows and ``n`` let them."""
        conn = self._conn
        while body.chunks and len(conn._data_to_send) < n:
            chunk = body.chunks[0]
            room = min(conn.local_flow_control_window(stream), conn.max_outbound_frame_size)
            if room <= 0:
                return
            part = chunk[:room]
            body.pending -= len(part)
            if len(part) == len(chunk):
                body.chunks.popleft()
            else:
                body.chunks[0] = chunk[room:]
            last = body.ended and not body.chunks and body.trailers is None
            conn.send_data(stream, part, end_stream=last)
            if last:
                self._here(stream, body)
        if body.ended and not body.chunks and not body.here:
            if body.trailers is not None:
                conn.send_headers(stream, body.trailers, end_stream=True)
            else:
                conn.end_stream(stream)
            self._here(stream, body)

    def _here(self, stream: int, body: _Body) -> None:
        body.here = True
        self._check(stream, body)

    def _due_resets(self) -> None:
        for stream, code in list(self._resets.items()):
            body = self._bodies.get(stream)
            if code != NO_ERROR or body is None or not body.pending:
                self._reset_now(stream, code)
                self._gone(stream)

    def _reset_now(self, stream: int, code: int) -> None:
        try:
            self._conn.reset_stream(stream, code)
        except h2.exceptions.ProtocolError:
            pass  # it closed meanwhile

    def request(self, fields: Sequence[Field], end: bool) -> int:
        if self.closing or self._dead:
            raise GoingAway("the connection takes no new streams")
        if not self.can_open:
            raise StreamsExhausted("as many streams are open as may be")
        stream = self._conn.get_next_available_stream_id()
        self._conn.send_headers(stream, fields, end_stream=end)
        self._open[stream] = LIVE
        self._last = stream
        self._bodies[stream] = _Body(end, False)
        return stream

    def respond(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        body = self._body(stream)
        if body is not None:
            self._conn.send_headers(stream, fields, end_stream=end)
            if end:
                self._here(stream, body)

    def interim(self, stream: int, fields: Sequence[Field]) -> None:
        if self._body(stream) is not None:
            self._conn.send_headers(stream, fields)

    def send(self, stream: int, data: bytes, end: bool) -> None:
        body = self._body(stream)
        if body is not None and not body.ended:
            if data:
                body.chunks.append(data)
                body.pending += len(data)
            body.ended = end

    def trailers(self, stream: int, fields: Sequence[Field]) -> None:
        body = self._body(stream)
        if body is not None and not body.ended:
            body.trailers, body.ended = list(fields), True

    def end(self, stream: int) -> None:
        self.send(stream, b"", True)

    def _body(self, stream: int) -> _Body | None:
        """The sending side of a stream that still has one."""
        if self._dead or self._open.get(stream) != LIVE:
            return None
        body = self._bodies[stream]
        return None if body.here else body

    def goaway(self, code: int, last: int | None = None) -> None:
        if self._dead:
            return
        self.closing = True
        last = self.last_stream if last is None else last
        self._stop = min(self._stop, last)
        self._out += self._conn.data_to_send() + goaway_frame(last, code)
        self._dead = code != NO_ERROR

    def notice(self) -> None:
        if self._server:
            self.goaway(NO_ERROR, LAST_STREAM)

    def ping(self, payload: bytes = bytes(8)) -> None:
        if not self._dead:
            self._conn.ping(payload)

    def queued(self, stream: int) -> int:
        body = self._bodies.get(stream)
        return 0 if body is None else body.pending

    def taken(self, stream: int, n: int) -> None:
        if n and not self._dead:
            self._conn.acknowledge_received_data(n, stream)

    @property
    def can_open(self) -> bool:
        held = len(self._open)
        return (
            held < self.peer_streams
            and held < self._settings.streams
            and self._last < LAST_STREAM - 1
            and not (self.closing or self._dead)
        )

    @property
    def finished(self) -> bool:
        if self._tail or self._out or self._conn._data_to_send:
            return False
        return self._dead or (self.closing and not self._open and self._stop < LAST_STREAM)


def _plain(headers: Sequence[Any]) -> list[Field]:
    """Plain tuples where a field may be indexed; the others stay what they are."""
    return [tuple(f) if getattr(f, "indexable", True) else f for f in headers]


def _error_of(error: h2.exceptions.ProtocolError) -> H2Error:
    code = int(getattr(error, "error_code", PROTOCOL_ERROR))
    if isinstance(error, h2.exceptions.DenialOfServiceError):
        return H2Error(ENHANCE_YOUR_CALM, "h2_header_bomb", str(error))
    return H2Error(code, "h2_protocol_error", str(error))


def _ignored(_engine: HyperEngine, _event: object) -> None:
    pass


_HANDLERS: dict[type[h2.events.Event], Callable[[HyperEngine, Any], None]] = {
    h2.events.RequestReceived: HyperEngine._on_request,
    h2.events.ResponseReceived: HyperEngine._on_response,
    h2.events.InformationalResponseReceived: HyperEngine._on_interim,
    h2.events.DataReceived: HyperEngine._on_data,
    h2.events.TrailersReceived: HyperEngine._on_trailers,
    h2.events.StreamReset: HyperEngine._on_reset,
    h2.events.RemoteSettingsChanged: HyperEngine._on_settings,
    h2.events.WindowUpdated: HyperEngine._on_window,
}
