"""``python -m bench.applications.bulk PORT``: source and sink of bytes, and short connections.

A line says what is wanted on a connection, over and over:

    DOWN n    n bytes come back, out of the page cache (sendfile)
    UP n      "GO", then n bytes are taken and dropped in the kernel (MSG_TRUNC), then "OK n"
    SUM n     the same, and "OK" with their SHA-256
    GET ...   a short answer over HTTP/1.1, and the connection is closed

Bytes that come back are `BLOCK` over and over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import socket
import sys
import threading

BLOCK = random.Random(0).randbytes(1 << 20)
REPEATS = 16
"""Of BLOCK in the file that is sent: larger than a processor's cache, as real files are."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\npong\n"
GO = b"GO\n"
RECEIVE_BYTES = 1 << 20
LINE_BYTES = 4096
_UNTOUCHED = bytearray(RECEIVE_BYTES)
"""What the kernel is asked to fill and, with MSG_TRUNC, does not."""


def source() -> int:
    """A file descriptor of REPEATS × BLOCK, in memory."""
    fd = os.memfd_create("source")
    for _ in range(REPEATS):
        os.write(fd, BLOCK)
    return fd


def send(sock: socket.socket, fd: int, count: int) -> None:
    """Send `count` bytes of the file, from its start as often as needed."""
    size = REPEATS * len(BLOCK)
    sent = 0
    while sent < count:
        offset = sent % size
        sent += os.sendfile(sock.fileno(), fd, offset, min(size - offset, count - sent))


def drop(sock: socket.socket, count: int) -> None:
    """Take `count` bytes without copying them (MSG_TRUNC, tcp(7)).

    Raises EOFError where fewer come.
    """
    while count > 0:
        taken = sock.recv_into(_UNTOUCHED, min(RECEIVE_BYTES, count), socket.MSG_TRUNC)
        if not taken:
            raise EOFError(f"{count} bytes are missing")
        count -= taken


def digest(sock: socket.socket, count: int) -> str:
    """SHA-256 of the next `count` bytes.  Raises EOFError where fewer come."""
    found = hashlib.sha256()
    while count > 0:
        data = sock.recv(min(RECEIVE_BYTES, count))
        if not data:
            raise EOFError(f"{count} bytes are missing")
        found.update(data)
        count -= len(data)
    return found.hexdigest()


def serve(sock: socket.socket, line: bytes, fd: int) -> None:
    """One connection that began with `line`, until its end."""
    sock.setblocking(True)
    with sock, contextlib.suppress(OSError, EOFError):
        while line.endswith(b"\n"):
            command, count = line.split()
            _do(sock, command, int(count), fd)
            line = sock.recv(LINE_BYTES)


def _do(sock: socket.socket, command: bytes, count: int, fd: int) -> None:
    if command == b"DOWN":
        send(sock, fd, count)
        return
    sock.sendall(GO)
    if command == b"SUM":
        sock.sendall(b"OK %s\n" % digest(sock, count).encode())
    else:
        drop(sock, count)
        sock.sendall(b"OK %d\n" % count)


class Server:
    """Short connections in one loop, each of the others in a thread of its own."""

    def __init__(self, listener: socket.socket) -> None:
        self._fd = source()
        self._listener = listener
        self._poll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        listener.setblocking(False)
        self._poll.register(listener, select.EPOLLIN)

    def run(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._listener.fileno():
                    self._accept()
                else:
                    self._first(self._open.pop(fd))

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                self._open[sock.fileno()] = sock
                self._poll.register(sock, select.EPOLLIN)

    def _first(self, sock: socket.socket) -> None:
        """The first bytes of a connection.  A line comes whole: the clients are ours."""
        self._poll.unregister(sock)
        try:
            line = sock.recv(LINE_BYTES)
            if line.startswith(b"GET "):
                sock.send(ANSWER)
        except OSError:
            line = b""
        if line.startswith((b"DOWN ", b"UP ", b"SUM ")):
            threading.Thread(target=serve, args=(sock, line, self._fd), daemon=True).start()
        else:
            sock.close()


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    Server(listener).run()


if __name__ == "__main__":
    main()
