"""HTTP/2 peers on blocking sockets, by the package h2: what our own engines do not judge."""

from __future__ import annotations

import socket
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings

Headers = list[tuple[str, str]]


class Peer:
    """One connection, either side; everything that comes is kept by stream."""

    def __init__(self, sock: socket.socket, client: bool, connect: bool = True) -> None:
        self.sock = sock
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding="utf-8"))
        if not client and connect:
            # Announced with the first SETTINGS, as RFC 8441 section 3 wants it.
            self.h2.local_settings = Settings(
                client=False, initial_values={SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
            )
        self.h2.initiate_connection()
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.gone: int | None = None
        self.eof = False
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def turn(self) -> bool:
        """Read once; False at the connection's end."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.eof = True
            return False
        for event in self.h2.receive_data(data):
            self._take(event)
        self.flush()
        return True

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived() | ResponseReceived():
                self.heads[event.stream_id] = dict(event.headers or [])  # type: ignore[arg-type]
                self.bodies.setdefault(event.stream_id, b"")
            case DataReceived():
                self.bodies[event.stream_id] += event.data or b""
                size = event.flow_controlled_length or 0
                self.h2.acknowledge_received_data(size, event.stream_id)
            case TrailersReceived():
                self.trailers[event.stream_id] = dict(event.headers or [])  # type: ignore[arg-type]
            case StreamEnded():
                self.ended.add(event.stream_id)
            case StreamReset():
                self.resets[event.stream_id] = int(event.error_code or 0)
            case ConnectionTerminated():
                self.gone = int(event.error_code or 0)

    def until(self, condition: Any) -> None:
        while not condition():
            assert self.turn(), f"the connection ended: {vars(self)}"

    def send(self, stream: int, data: bytes, end: bool = False) -> None:
        """All of it, as credit comes; nothing more once the stream was reset."""
        while data and stream not in self.resets:
            room = min(self.h2.local_flow_control_window(stream), 16_384)
            if not room:
                assert self.turn()
                continue
            self.h2.send_data(stream, data[:room])
            data = data[room:]
            self.flush()
        if end and stream not in self.resets:
            self.h2.end_stream(stream)
            self.flush()

    def body(self, stream: int, size: int) -> bytes:
        """So many bytes of a stream, once they are there."""
        self.until(lambda: len(self.bodies.get(stream, b"")) >= size)
        return self.bodies[stream]

    # Clients

    def request(self, *headers: tuple[str, str], end: bool = True) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, list(headers), end_stream=end)
        self.flush()
        return stream

    def head(self, stream: int) -> dict[str, str]:
        self.until(lambda: stream in self.heads or stream in self.resets)
        return self.heads[stream]

    def connect(self, *headers: tuple[str, str], protocol: str = "websocket") -> int:
        """An extended CONNECT, once the server allows it."""
        allowed = SettingCodes.ENABLE_CONNECT_PROTOCOL
        self.until(lambda: self.h2.remote_settings.get(allowed, 0) == 1)
        return self.request(
            *((":method", "CONNECT"), (":protocol", protocol), (":scheme", "http")),
            *((":path", "/chat"), (":authority", "app"), *headers),
            end=False,
        )
