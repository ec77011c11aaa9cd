"""A TLS client whose ClientHello comes in as many records and segments as one likes."""

from __future__ import annotations

import socket
import ssl

_HEADER = 5
"""Of a TLS record: type, version, length (RFC 8446, 5.1)."""


def split_records(flight: bytes, size: int) -> list[bytes]:
    """One record, as several of at most ``size`` bytes of content each."""
    head, content = flight[:3], flight[_HEADER:]
    pieces = [content[i : i + size] for i in range(0, len(content), size)]
    return [head + len(piece).to_bytes(2, "big") + piece for piece in pieces]


class SplitClient:
    """A TLS connection over a socket; ``record`` and ``segment`` cut the ClientHello.

    ``segment``: bytes a send, each of them a packet of its own (TCP_NODELAY).
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, name: str, record: int, segment: int
    ) -> None:
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._step(self.tls.do_handshake)
        hello = b"".join(split_records(self._out.read(), record))
        for at in range(0, len(hello), segment):
            sock.sendall(hello[at : at + segment])
        while not self._step(self.tls.do_handshake):
            self._flush()
            self._fill()
        self._flush()

    def _step(self, action: object) -> bool:
        try:
            action()  # type: ignore[operator]
        except ssl.SSLWantReadError:
            return False
        return True

    def _flush(self) -> None:
        self.sock.sendall(self._out.read())

    def _fill(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed within the handshake")
        self._in.write(data)

    def exchange(self, data: bytes) -> bytes:
        """Say something, and the next that is heard."""
        self.tls.write(data)
        self._flush()
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                self._fill()
