"""TCP and TLS applications of the peer tests, a thread for each connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from threading import Thread

from tests.meshd.worker.real.rig import listen


def free_port() -> int:
    """A port where nobody listens: the caller starts something there."""
    with listen() as sock:
        return int(sock.getsockname()[1])


class TCPApplication:
    """Gives each connection to ``handler``; TLS first where a context is given."""

    def __init__(
        self, handler: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self._handler = handler
        self._tls = tls
        self._sock = listen()
        self.port: int = self._sock.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        try:
            if self._tls is not None:
                conn = self._tls.wrap_socket(conn, server_side=True)
            with conn:
                self._handler(conn)
        except OSError:
            conn.close()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)  # a close alone does not end the accept
        self._sock.close()
