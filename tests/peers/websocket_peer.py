"""The WebSocket server and client of the peer tests in Python's `websockets`.

`node/websocket.js` is the same in node's `ws`.  The server does as the path says:

- /echo: every message again, text as text and bytes as bytes
- /fragments: the same, in frames of 1,000 bytes each
- /close: at the first message, ``<code> <reason>``, closes with these
- /ping: pings at the first message; says ``pong`` when the answer came
- /ended: how the connection before this one ended, ``<code> <reason>``

Both negotiate permessage-deflate and the subprotocol ``chat.v2``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from select import select
from threading import Lock, Thread
from typing import Any, cast

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

BIGGEST = 17 << 20
SUBPROTOCOL = "chat.v2"
PATIENCE = 30.0
Document = dict[str, Any]


class WebsocketsServer:
    """On a loopback port, a thread for each connection."""

    def __init__(self) -> None:
        self.ended = ""
        self._server = serve(
            self._handle, "127.0.0.1", 0, max_size=BIGGEST, subprotocols=[SUBPROTOCOL]
        )
        self.port: int = self._server.socket.getsockname()[1]
        Thread(target=self._server.serve_forever, daemon=True).start()

    def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        if connection.request.path == "/ended":
            connection.send(self.ended)
            return
        try:
            HANDLERS[connection.request.path](connection)
        except ConnectionClosed:
            pass
        self.ended = ending(connection)

    def close(self) -> None:
        self._server.shutdown()


def ending(connection: ServerConnection) -> str:
    return f"{connection.close_code} {connection.close_reason}".strip()


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


def fragments(connection: ServerConnection) -> None:
    for message in connection:
        connection.send([message[i : i + 1000] for i in range(0, len(message), 1000)])


def close(connection: ServerConnection) -> None:
    code, _, reason = str(connection.recv()).partition(" ")
    connection.close(int(code), reason)


def ping(connection: ServerConnection) -> None:
    connection.recv()
    if connection.ping(b"from the server").wait(PATIENCE):
        connection.send("pong")
    echo(connection)


HANDLERS: dict[str, Callable[[ServerConnection], None]] = {
    "/echo": echo,
    "/fragments": fragments,
    "/close": close,
    "/ping": ping,
}


# The client


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, which Host to name, and the PEM roots to trust (TLS)."""

    port: int
    host: str = "127.0.0.1"
    roots: str = ""
    address: str = "127.0.0.1"


class SharedTLS:
    """A TLS connection for two threads, as `websockets` uses it: one reads while another writes.

    OpenSSL's objects are not made for that, and Python 3.11 does not lock them: about one
    connection in 5,000 lost its first message, without a mesh between.  Here one call at a time
    is inside OpenSSL, and whoever waits does so outside.
    """

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._lock = Lock()
        tls.setblocking(False)

    def recv(self, size: int) -> bytes:
        return cast(bytes, self._until_done(lambda: self._tls.recv(size)))

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[cast(int, self._until_done(partial(self._tls.send, view))) :]

    def shutdown(self, how: int) -> None:
        socket.socket.shutdown(self._tls, how)

    def settimeout(self, seconds: float | None) -> None:
        """Who waits here waits for the peer: `websockets` bounds it by closing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def _until_done(self, call: Callable[[], object]) -> object:
        while True:
            try:
                with self._lock:
                    return call()
            except ssl.SSLWantReadError:
                select([self._tls], [], [], 1.0)
            except ssl.SSLWantWriteError:
                select([], [self._tls], [], 1.0)
            except ssl.SSLZeroReturnError:
                return b""


@contextmanager
def opened(target: Target, path: str, compress: bool = True) -> Iterator[ClientConnection]:
    sock: Any = socket.create_connection((target.address, target.port), timeout=PATIENCE)
    if target.roots:
        context = ssl.create_default_context(cadata=target.roots)
        sock = SharedTLS(context.wrap_socket(sock, server_hostname=target.host))
    with connect(
        f"ws://{target.host}:{target.port}{path}",  # the TLS is ours, see SharedTLS
        sock=sock,
        max_size=BIGGEST,
        compression="deflate" if compress else None,
        subprotocols=[SUBPROTOCOL],
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
    ) as connection:
        yield connection


def echoes(target: Target, compress: bool) -> Document:
    """Texts and bytes of any size come back as they were."""
    messages = ["", "text", "ü€𝄞", b"", bytes(range(256)), "x" * 125, b"y" * 126, "z" * 65536]
    with opened(target, "/echo", compress) as connection:
        for message in messages:
            connection.send(message)
        same = [connection.recv(PATIENCE) == message for message in messages]
        extensions = [e.name for e in connection.protocol.extensions]
        return {
            "same": sum(same),
            "extensions": extensions,
            "subprotocol": connection.subprotocol,
        }


def big(target: Target, size: int) -> Document:
    message = bytes(range(251)) * (size // 251 + 1)
    with opened(target, "/echo", compress=False) as connection:
        connection.send(message[:size])
        return {"same": connection.recv(PATIENCE) == message[:size]}


def fragmented(target: Target) -> Document:
    """A message in many frames, a ping among them, answered in many frames."""
    parts = [b"%05d" % i * 20 for i in range(100)]
    with opened(target, "/fragments", compress=False) as connection:

        def with_a_ping() -> Iterator[bytes]:
            for i, part in enumerate(parts):
                if i == 50:
                    connection.ping(b"between two frames")
                yield part

        connection.send(with_a_ping())
        frames = list(connection.recv_streaming())
    return {"same": b"".join(frames) == b"".join(parts), "frames": len(frames)}


def client_closes(target: Target, code: int, reason: str) -> Document:
    with opened(target, "/echo") as connection:
        connection.close(code, reason)
        return {"heard": connection.close_code}


def server_closes(target: Target, code: int, reason: str) -> Document:
    with opened(target, "/close") as connection:
        connection.send(f"{code} {reason}")
        try:
            connection.recv(PATIENCE)
        except ConnectionClosed:
            pass
        return {"code": connection.close_code, "reason": connection.close_reason}


def pings(target: Target) -> Document:
    """Each side pings once, and both are answered."""
    with opened(target, "/ping") as connection:
        answered = connection.ping(b"from the client").wait(PATIENCE)
        connection.send("now you")
        return {"client": answered, "server": connection.recv(PATIENCE)}


def breaks_off(target: Target) -> Document:
    """A client whose process dies: the server hears of an end without a close frame."""
    with opened(target, "/echo") as connection:
        connection.send("hello")
        connection.recv(PATIENCE)
        connection.socket.shutdown(socket.SHUT_RDWR)
    return {"broke": True}


SCENARIOS: dict[str, Callable[..., Document]] = {
    function.__name__: function
    for function in (echoes, big, fragmented, client_closes, server_closes, pings, breaks_off)
}


def ended(target: Target) -> str:
    """How the server's connection before this one ended."""
    with opened(target, "/ended") as connection:
        return str(connection.recv(PATIENCE))
