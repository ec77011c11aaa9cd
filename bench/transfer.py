"""``python -m bench.transfer down|up PORT CONNECTIONS SECONDS``: bytes, as fast as the path goes.

Prints how many came or went, and in how many seconds.  The other end is
bench/applications/bulk.py; neither end copies what it sends or takes.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.applications.bulk import BLOCK, GO, LINE_BYTES, REPEATS, digest, drop, send, source
from bench.measure import LoadError

PIECE_BYTES = 8 << 20
"""What is asked for at once: short enough to end near the given time, and a pause of one
round trip every 20 ms at 400 MB/s does not count."""

TIMEOUT_SECONDS = 20.0
CHECK_BYTES = 3 << 20


@dataclass(frozen=True, slots=True)
class Bulk:
    """What one run moved."""

    bytes: int
    seconds: float


def connect(port: int) -> socket.socket:
    """A socket that blocks, as sendfile wants it, but not for ever (SO_RCVTIMEO, socket(7))."""
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(TIMEOUT_SECONDS), 0))
    return sock


def _command(sock: socket.socket, word: str, count: int) -> None:
    sock.sendall(f"{word} {count}\n".encode())


def _expect(sock: socket.socket, answer: bytes) -> None:
    got = b""
    while not got.endswith(b"\n") and len(got) < LINE_BYTES:
        data = sock.recv(LINE_BYTES)
        if not data:
            break
        got += data
    if got != answer:
        raise EOFError(f"{got!r} instead of {answer!r}")


def download(sock: socket.socket, _: int, count: int) -> None:
    _command(sock, "DOWN", count)
    drop(sock, count)


def upload(sock: socket.socket, fd: int, count: int) -> None:
    _command(sock, "UP", count)
    _expect(sock, GO)
    send(sock, fd, count)
    _expect(sock, b"OK %d\n" % count)


WAYS: dict[str, Callable[[socket.socket, int, int], None]] = {"down": download, "up": upload}


def check(port: int) -> None:
    """Bytes arrive as they were sent, both ways.  Raises OSError, EOFError otherwise."""
    wanted = hashlib.sha256((BLOCK * REPEATS)[:CHECK_BYTES]).hexdigest()
    fd = source()
    with connect(port) as sock:
        _command(sock, "DOWN", CHECK_BYTES)
        if digest(sock, CHECK_BYTES) != wanted:
            raise EOFError("the bytes that came are not those that were sent")
        _command(sock, "SUM", CHECK_BYTES)
        _expect(sock, GO)
        send(sock, fd, CHECK_BYTES)
        _expect(sock, f"OK {wanted}\n".encode())


def _until(way: str, port: int, fd: int, deadline: float) -> int:
    """Bytes that one connection moved before `deadline`, in whole pieces."""
    moved = 0
    with connect(port) as sock:
        while time.monotonic() < deadline:
            WAYS[way](sock, fd, PIECE_BYTES)
            moved += PIECE_BYTES
    return moved


def run(way: str, port: int, connections: int, seconds: float) -> Bulk:
    """Move bytes on every connection at once.  Raises OSError, EOFError."""
    fd = source()
    start = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        jobs = [pool.submit(_until, way, port, fd, start + seconds) for _ in range(connections)]
        moved = sum(job.result() for job in jobs)
    return Bulk(moved, time.monotonic() - start)


def transfer(way: str, port: int, connections: int, seconds: int, cpu: int) -> Bulk:
    """The same in a process of its own on processor `cpu`.  Raises LoadError."""
    command = ["taskset", "-c", str(cpu), sys.executable, "-m", "bench.transfer"]
    command += [way, str(port), str(connections), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadError(f"a transfer {way} failed: {done.stderr.strip()[-400:]}")
    moved, took = done.stdout.split()
    return Bulk(int(moved), float(took))


if __name__ == "__main__":
    done = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    print(done.bytes, done.seconds)
