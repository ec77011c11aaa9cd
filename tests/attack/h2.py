"""HTTP/2 for attacks: a client with good manners, and frames without any.

The good one is our own engine on a socket; the bad one writes bytes that were made
before, so that what it costs is little more than the system call.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from meshkit.http.fields import Field
from meshkit.http.h2 import Engine
from tests.attack.raw import dial
from tests.meshkit.http import h2_wire as wire
from tests.meshkit.http.h2_pair import Recorder, engine_of

Frames = Callable[[int], bytes]
BLOB = 1 << 16


class Good:
    """One connection that behaves; `ask` is one request to its end."""

    def __init__(self, address: str, port: int) -> None:
        self.sock = dial(address, port, 10.0)
        self.engine: Engine
        self.engine, self.told = engine_of("client", "")

    def ask(
        self, fields: Sequence[Field], body: bytes = b"", trailers: Sequence[Field] = ()
    ) -> tuple[int, bytes]:
        """(status, body); status 0 when the stream was reset, or the connection ended."""
        stream = self.engine.request(fields, not body and not trailers)
        if body:
            self.engine.send(stream, body, not trailers)
        if trailers:
            self.engine.trailers(stream, trailers)
        while not any(call[0] == "closed" and call[1] == stream for call in self.told.calls):
            if not self.turn():
                return 0, b""
        return self._answer(stream)

    def turn(self) -> bool:
        """Send what may go and read once; False at the end."""
        while data := self.engine.output():
            self.sock.sendall(data)
        data = self.sock.recv(1 << 16)
        if data:
            self.engine.receive(data, time.monotonic())
        return bool(data)

    def _answer(self, stream: int) -> tuple[int, bytes]:
        status, body = 0, b""
        for call in self.told.take():
            if call[0] == "response" and call[1] == stream:
                status = int(dict(call[2])[b":status"])  # type: ignore[call-overload]
            elif call[0] == "data" and call[1] == stream:
                body += call[2]  # type: ignore[operator]
                self.engine.taken(stream, len(call[2]))  # type: ignore[arg-type]
        return status, body

    def close(self) -> None:
        self.sock.close()


def recorder_of(good: Good) -> Recorder:
    return good.told


def blob(frames: Frames, size: int = BLOB) -> bytes:
    """So many frames as fill ``size``; numbered from 0."""
    parts: list[bytes] = []
    total = 0
    while total < size:
        parts.append(frames(len(parts)))
        total += len(parts[-1])
    return b"".join(parts)


def read_end(sock: socket.socket, seconds: float = 5.0) -> bytes:
    """All that comes until the end or a reset; TimeoutError when neither comes."""
    received = b""
    sock.settimeout(seconds)
    with suppress(ConnectionError):
        while data := sock.recv(1 << 16):
            received += data
    return received


def goaway_code(received: bytes) -> int | None:
    """The error of the last GOAWAY in a server's bytes; None = none came."""
    code, pos = None, 0
    while pos + 9 <= len(received):
        end = pos + 9 + int.from_bytes(received[pos : pos + 3])
        if received[pos + 3] == wire.GOAWAY:
            code = int.from_bytes(received[pos + 13 : pos + 17])
        pos = end
    return code
