"""An HTTP/2 server made by hand with the h2 package: it misbehaves as a test wishes.

Each request becomes a call of ``behaviour(connection, stream, number)``, with the
number of the request among all that the server has had.  `Wire` has what a
behaviour may do; what is not done does not happen: no answer, no window update.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from threading import Event, Lock, Thread

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

from tests.meshd.worker.real.rig import listen

OK = [(":status", "200"), ("content-type", "application/octet-stream")]
GRPC = [(":status", "200"), ("content-type", "application/grpc")]


class Wire:
    """One accepted connection."""

    def __init__(self, server: BadServer, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.reading = Event()
        self.reading.set()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def head(self, stream: int, fields: list[tuple[str, str]] = OK, *, end: bool = False) -> None:
        self.h2.send_headers(stream, fields, end_stream=end)
        self.flush()

    def data(self, stream: int, data: bytes, *, end: bool = False, padding: int = 0) -> None:
        self.h2.send_data(stream, data, end_stream=end, pad_length=padding or None)
        self.flush()

    def trailers(self, stream: int, fields: list[tuple[str, str]]) -> None:
        self.h2.send_headers(stream, fields, end_stream=True)
        self.flush()

    def reset(self, stream: int, code: int) -> None:
        self.h2.reset_stream(stream, code)
        self.flush()

    def goaway(self, last: int, code: int = 0) -> None:
        """GOAWAY by hand: h2 would take its own connection for closed."""
        payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.sock.sendall(len(payload).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + payload)

    def answer(self, stream: int, body: bytes = b"fine") -> None:
        self.head(stream)
        self.data(stream, body, end=True)

    def run(self) -> None:
        self.h2.initiate_connection()
        self.flush()
        while data := self._receive():
            for event in self.h2.receive_data(data):
                self._handle(event)
            self.flush()

    def _receive(self) -> bytes:
        self.reading.wait()
        return self.sock.recv(65536)

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=stream) if stream is not None:
                self.server.behaviour(self, stream, self.server.next_number())
            case h2.events.DataReceived(stream_id=stream, flow_controlled_length=length):
                self.server.received += length or 0
                if self.server.credit and length and stream:
                    self.h2.acknowledge_received_data(length, stream)
            case h2.events.StreamReset(error_code=code):
                self.server.resets.append(int(code or 0))
            case h2.events.ConnectionTerminated():
                self.server.goaways += 1


Behaviour = Callable[[Wire, int, int], None]


class BadServer:
    """``credit`` False: never gives flow-control credit back."""

    def __init__(self, behaviour: Behaviour, *, credit: bool = True) -> None:
        self.behaviour = behaviour
        self.credit = credit
        self.received = 0
        self.requests = 0
        self.connections = 0
        self.goaways = 0
        self.resets: list[int] = []
        self._lock = Lock()
        self._sock = listen()
        self.port: int = self._sock.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def next_number(self) -> int:
        with self._lock:
            self.requests += 1
            return self.requests

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock:
            try:
                Wire(self, sock).run()
            except OSError:
                pass

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)  # a close alone does not end the accept
        self._sock.close()
