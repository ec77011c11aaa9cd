"""HTTP/2 peers of tests, over blocking sockets: the package h2 judges what workers send."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

Fields = list[tuple[bytes, bytes]]
SECONDS = 20.0


@dataclass
class Message:
    """What came on one stream."""

    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    interim: list[Fields] = field(default_factory=list)
    ended: bool = False
    reset: int = -1

    def __getitem__(self, name: bytes) -> bytes:
        return dict(self.fields)[name]

    @property
    def status(self) -> int:
        return int(self[b":status"]) if self.fields else 0

    @property
    def over(self) -> bool:
        return self.ended or self.reset >= 0


class Peer:
    """One connection, either role.  `credit`: return flow-control credit as data comes."""

    def __init__(self, sock: socket.socket, client: bool, credit: bool = True) -> None:
        self.sock = sock
        self.credit = credit
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding=None))
        self.streams: dict[int, Message] = {}
        self.goaway: tuple[int, int] | None = None
        """(last stream, code)"""
        self.gone = False
        self.backlog: list[Event] = []
        """Events of reads while something was sent."""
        sock.settimeout(SECONDS)

    def start(self) -> None:
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def pump(self) -> list[Event]:
        """Read once; the events.  [] and `gone` when the peer has ended."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.gone = True
            return []
        events = self.h2.receive_data(data)
        for event in events:
            self._note(event)
        self.flush()
        return events

    def _note(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway = (event.last_stream_id or 0, int(event.error_code or 0))
            return
        stream = getattr(event, "stream_id", None)
        if not stream:
            return
        message = self.streams.setdefault(stream, Message())
        if isinstance(event, RequestReceived | ResponseReceived):
            message.fields = list(event.headers)
        elif isinstance(event, InformationalResponseReceived):
            message.interim.append(list(event.headers))
        elif isinstance(event, DataReceived):
            message.body += event.data
            if self.credit and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, TrailersReceived):
            message.trailers = list(event.headers)
        elif isinstance(event, StreamEnded):
            message.ended = True
        elif isinstance(event, StreamReset):
            message.reset = int(event.error_code)

    def send(self, stream: int, data: bytes, end: bool = False) -> None:
        """All of it, as the peer's windows allow."""
        view = memoryview(data)
        while view:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if not room:
                self.backlog += self.pump()
                assert not self.gone, "the peer left while data was sent"
                continue
            self.h2.send_data(stream, bytes(view[:room]))
            view = view[room:]
            self.flush()
        if end:
            self.h2.end_stream(stream)
        self.flush()

    def reset(self, stream: int, code: int = 8) -> None:
        self.h2.reset_stream(stream, code)
        self.flush()

    def close(self) -> None:
        self.sock.close()


class Client(Peer):
    """A client of the mesh: with the proxy's port, by prior knowledge."""

    def __init__(self, sock: socket.socket, credit: bool = True) -> None:
        super().__init__(sock, True, credit)
        self.start()

    def ask(
        self,
        path: str = "/",
        body: bytes | None = None,
        *,
        method: str = "",
        host: str = "app",
        fields: Iterable[tuple[str, str]] = (),
        end: bool = True,
    ) -> int:
        """Send a request; its stream.  `end` False: more is to come."""
        stream = self.h2.get_next_available_stream_id()
        head = [
            (":method", method or ("GET" if body is None and end else "POST")),
            *((":scheme", "http"), (":authority", host), (":path", path), *fields),
        ]
        self.h2.send_headers(stream, head, end_stream=end and not body)
        self.streams[stream] = Message()
        self.flush()
        if body:
            self.send(stream, body, end)
        return stream

    def answer(self, stream: int, seconds: float = SECONDS) -> Message:
        """The whole answer, or its reset."""
        message = self.streams[stream]
        self.until(lambda: message.over, seconds)
        return message

    def until(self, condition: object, seconds: float = SECONDS) -> None:
        """Read until a callable is true."""
        deadline = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, "waited in vain"
            assert not self.gone, "the worker closed the connection"
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            self.pump()

    def get(self, path: str = "/", **more: object) -> Message:
        return self.answer(self.ask(path, **more))  # type: ignore[arg-type]


class Server(Peer):
    """The application's end of one connection; tests override what they need."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, False)

    def __call__(self) -> None:
        """Serve until the worker leaves."""
        self.start()
        while not self.gone:
            try:
                events = self.pump()
            except (ProtocolError, TimeoutError):
                return
            self.backlog += events
            while self.backlog:
                self.on_event(self.backlog.pop(0))
            self.flush()

    def on_event(self, event: Event) -> None:
        stream = getattr(event, "stream_id", 0)
        if isinstance(event, RequestReceived):
            self.on_request(stream, self.streams[stream])
        elif isinstance(event, StreamEnded):
            self.on_end(stream, self.streams[stream])

    def on_request(self, stream: int, message: Message) -> None:
        """The head is there."""

    def on_end(self, stream: int, message: Message) -> None:
        """The request is whole: by default, answer with it."""
        lines = b"".join(b"%b: %b\n" % pair for pair in message.fields)
        self.respond(stream, lines + b"\n" + message.body, message.trailers)

    def respond(
        self,
        stream: int,
        body: bytes = b"",
        trailers: Fields | None = None,
        status: int = 200,
        fields: Iterable[tuple[str, str]] = (),
    ) -> None:
        head = [(":status", str(status)), *fields]
        self.h2.send_headers(stream, head, end_stream=not body and not trailers)
        if body:
            self.send(stream, body, not trailers)
        if trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
        self.flush()
