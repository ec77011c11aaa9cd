"""Floods, each beside a good client that must be served: what an attacker holds costs little."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.attack.conftest import PORT, Range
from tests.attack.raw import dial, resident

HEAD = f"GET / HTTP/1.1\r\nHost: victim:{PORT}\r\n".encode()
CONNECTIONS = 600


@contextmanager
def held(address: str, port: int, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that said ``data`` and go no further."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            sock = stack.enter_context(dial(address, port))
            if data:
                try:
                    sock.sendall(data)
                except OSError:
                    continue
            found.append(sock)
        yield found


def cost(pid: int, before: int, count: int) -> int:
    """Bytes of a process's memory for each attacker."""
    return max(0, resident(pid) - before) // count


FIRST = {
    "silent": b"",
    "half a head": HEAD,
    "a head and a slow body": HEAD.replace(b"GET", b"POST") + b"Content-Length: 9\r\n\r\n1",
    "a ClientHello's first bytes": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("kind", FIRST)
@pytest.mark.parametrize("port", ["proxy", "mesh", "plaintext", "metrics", "control"])
def test_slow_clients_are_cheap_and_harm_nobody(target: Range, port: str, kind: str) -> None:
    server = target.whole.rig.server
    control = target.whole.rig.control.rpartition(":")
    assert server is not None and target.b.process is not None
    address, number, pid = {
        "proxy": (target.a.address, target.a.proxy, target.a.pids()[0]),
        "mesh": (target.b.address, target.b.mesh, target.b.pids()[0]),
        "plaintext": (target.b.address, PORT, target.b.pids()[0]),
        "metrics": (target.b.address, target.b.metrics, target.b.process.pid),
        "control": (control[0], int(control[2]), server.pid),
    }[port]
    before = resident(pid)
    with held(address, number, CONNECTIONS, FIRST[kind]):
        began = time.monotonic()
        assert all(target.works() for _ in range(5))
        took = (time.monotonic() - began) / 5
        print(f"{port}, {kind}: {cost(pid, before, CONNECTIONS)} bytes each, {took * 1000:.0f} ms")
        assert cost(pid, before, CONNECTIONS) < 96 << 10
        assert target.whole.hosts["a"].ready(), "its own probe port is answered"
    assert target.works()


def test_a_reader_that_never_reads_holds_a_little_of_a_big_answer(target: Range) -> None:
    size = 64 << 20
    target.app.answers[b"/big"] = (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size,
        *[bytes(1 << 16)] * 200,
    )
    pids = [target.a.pids()[0], target.b.pids()[0]]
    before = [resident(pid) for pid in pids]
    data = HEAD.replace(b"/ ", b"/big ") + b"\r\n"
    with held(target.a.address, target.a.proxy, 40, data):
        time.sleep(1.5)
        assert target.works()
        each = [cost(pid, old, 40) for pid, old in zip(pids, before, strict=True)]
        print(f"{each} bytes for each stopped reader")
        assert max(each) < 512 << 10


def test_an_endless_body_to_an_application_that_does_not_read(target: Range) -> None:
    """It answers the first request, and reads nothing of what follows for three seconds."""
    pid, before = target.a.pids()[0], resident(target.a.pids()[0])
    target.app.deaf[b"/endless"] = 3.0
    with dial(target.a.address, target.a.proxy) as sock:
        sock.settimeout(0.5)
        head = HEAD.replace(b"GET / ", b"POST /endless ")
        sock.sendall(head + b"Content-Length: 99999999999\r\n\r\n")
        sent = 0
        try:
            while sent < 64 << 20:
                sent += sock.send(bytes(1 << 16))
        except TimeoutError:
            pass
        print(f"{sent >> 20} MiB taken, memory {(resident(pid) - before) >> 10} KiB")
        assert resident(pid) - before < 4 << 20
    assert target.works()


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
def test_an_application_that_dies_within_an_upload_ends_that_request_only(
    target: Range, method: bytes
) -> None:
    target.app.deaf[b"/dies"] = 0.0
    head = HEAD.replace(b"GET / ", method + b" /dies ")
    for data in (b"", b"x", bytes(1 << 18)):
        with dial(target.a.address, target.a.proxy) as sock:
            sock.settimeout(3)
            sock.sendall(head + b"Content-Length: 1000000\r\n\r\n" + data)
            assert sock.recv(4096).startswith(b"HTTP/1.1 503"), len(data)
    assert target.works()
    assert not target.mistakes()


def test_many_hosts_paths_and_headers_that_never_repeat(target: Range) -> None:
    """Five thousand of each: the memories are bounded, and nothing of it stays."""
    pid = target.a.pids()[0]
    rss = resident(pid)
    with dial(target.a.address, target.a.proxy) as sock:
        for start in range(0, 5000, 50):
            batch = b"".join(
                b"GET /%d HTTP/1.1\r\nHost: h%d%b.example\r\nX-%d: %d\r\nUser-Agent: %d\r\n\r\n"
                % (n, n, b"x" * 100, n, n, n)
                for n in range(start, start + 50)
            )
            sock.sendall(batch)
            answers = b""
            while answers.count(b"HTTP/1.1 404") < 50:
                answers += sock.recv(1 << 20)
    print(f"memory {(resident(pid) - rss) >> 10} KiB")
    assert resident(pid) - rss < 12 << 20
    assert target.works()
