"""Bytes on the wire, without anybody's good manners: a client, and an application.

The application is the judge of smuggling: it keeps every request it was sent, so
that a test can ask which ones reached it, however they were dressed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import BinaryIO

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENCE = 20.0
Piece = bytes | float
"""Bytes to send, or seconds to wait."""


def dial(address: str, port: int, seconds: float = 5.0) -> socket.socket:
    sock = socket.create_connection((address, port), timeout=seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def read_all(sock: socket.socket, seconds: float = 1.0, want: int = 0) -> bytes:
    """What comes until the end, a reset, or ``seconds`` of silence.

    Silence counts when ``want`` answers have begun; these may take their time.
    """
    received = b""
    with suppress(OSError):
        while True:
            begun = received.count(b"HTTP/1.1 ")
            sock.settimeout(seconds if begun >= want else PATIENCE)
            if not (data := sock.recv(65536)):
                break
            received += data
    return received


def say(address: str, port: int, *pieces: Piece, seconds: float = 1.0, want: int = 0) -> bytes:
    """Everything that is answered to these pieces on one connection.

    A reset before the first byte is no answer, like one after it.
    """
    try:
        connected = dial(address, port)
    except ConnectionResetError:
        return b""
    with connected as sock:
        with suppress(OSError):
            for piece in pieces:
                if isinstance(piece, bytes):
                    sock.sendall(piece)
                else:
                    time.sleep(piece)
        return read_all(sock, seconds, want)


def statuses(answer: bytes) -> list[int]:
    """The status codes of the answers in a connection's bytes."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


class Scripted:
    """An HTTP application that answers a path with the bytes it was told, else 200 ``ok``."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        """Every request: its head, and its body behind it."""
        self.answers: dict[bytes, Sequence[Piece]] = {}
        """Path → pieces of the answer; one that is b"" closes the connection."""
        self.deaf: dict[bytes, float] = {}
        """Path → seconds in which its body is not read, and then the connection is closed."""
        self._lock = Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        Thread(target=self._accept, daemon=True).start()

    def paths(self) -> list[bytes]:
        with self._lock:
            return [request.split(b" ", 2)[1] for request in self.seen]

    def forget(self) -> None:
        with self._lock:
            self.seen.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock, suppress(OSError), sock.makefile("rb") as file:
            while (request := self._read(file)) is not None:
                with self._lock:
                    self.seen.append(request)
                path = request.split(b" ", 2)[1].partition(b"?")[0]
                for piece in self.answers.get(path, (OK,)):
                    if piece == b"":
                        return
                    if isinstance(piece, bytes):
                        sock.sendall(piece)
                    else:
                        time.sleep(piece)

    def _read(self, file: BinaryIO) -> bytes | None:
        """One request as a lenient server reads it; None at the end."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline(65536)
            if not line:
                return None
            head += line
        path = head.split(b" ", 2)[1]
        if path in self.deaf:
            time.sleep(self.deaf[path])
            return None
        lines = [line.lower() for line in head.split(b"\r\n")[1:] if b":" in line]
        fields = dict(line.split(b":", 1) for line in lines)
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            return head + _read_chunks(file)
        return head + file.read(int(fields.get(b"content-length", b"0")))


def _read_chunks(file: BinaryIO) -> bytes:
    body = b""
    while size := int(file.readline().split(b";")[0], 16):
        body += file.read(size)
        file.readline()
    while file.readline() != b"\r\n":
        pass
    return body


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
