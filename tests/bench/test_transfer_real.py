"""Bytes through the application of the TCP benchmark itself, without proxies."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench import transfer
from bench.applications.bulk import ANSWER
from tests.meshd.agent.rig import free_port, until
from tests.parts.find import ROOT


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The server has no end of its own, so it is a process of its own."""
    free = free_port("127.0.0.1")
    with subprocess.Popen(
        [sys.executable, "-m", "bench.applications.bulk", str(free)], cwd=ROOT
    ) as p:
        try:
            until(lambda: transfer.connect(free).close() is None, "the server listens")
            yield free
        finally:
            p.kill()


def test_bytes_arrive_as_they_were_sent(port: int) -> None:
    transfer.check(port)


@pytest.mark.parametrize("way", ["down", "up"])
def test_pieces_are_counted_as_they_arrive(port: int, way: str) -> None:
    moved = transfer.run(way, port, connections=2, seconds=0.05)
    assert moved.bytes >= 2 * transfer.PIECE_BYTES
    assert moved.bytes % transfer.PIECE_BYTES == 0
    assert moved.seconds >= 0.05


def test_a_short_connection(port: int) -> None:
    with transfer.connect(port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: svc0\r\n\r\n")
        assert sock.recv(4096) == ANSWER
        assert sock.recv(1) == b""


def test_bytes_that_do_not_come_end_a_transfer(port: int) -> None:
    with pytest.raises((OSError, EOFError)), transfer.connect(port) as sock:
        sock.shutdown(socket.SHUT_WR)
        transfer.download(sock, -1, 1)
