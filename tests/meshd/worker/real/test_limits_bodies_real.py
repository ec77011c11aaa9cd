"""Limits of what is under way: slow bodies, slow requests, streams that stand still."""

from __future__ import annotations

import json
import socket
import time

import pytest
from hosts import Hosts, get, read_answer, read_head
from limits import count, edge, ended, hits, limit, served
from rig import wait_for

__all__ = ["edge"]

POST = b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 1000\r\n\r\n"


def flags(hosts: Hosts, side: str = "near") -> str:
    rig = getattr(hosts, side)
    wait_for(lambda: rig.access_log.read_text().count("\n") > 0)
    return str(json.loads(rig.access_log.read_text().splitlines()[-1])["response_flags"])


def trickle(conn: socket.socket, seconds: float) -> None:
    """A byte every tenth of a second, until the other side has had enough."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            conn.sendall(b"x")
        except OSError:
            return
        time.sleep(0.1)


def test_a_body_must_not_pause_for_long(hosts: Hosts) -> None:
    limit(hosts, body_idle=1)
    with hosts.connect() as other, hosts.connect() as conn:
        conn.sendall(POST + b"some")
        assert ended(conn).startswith(b"HTTP/1.1 408")
        assert hits(hosts) == {"body_idle": 1}
        assert served(other).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("code", "knobs"),
    [
        ("body_rate", {"body_rate": 100, "body_rate_seconds": 1}),
        ("request_timeout", {"request_timeout": 1}),
    ],
)
def test_a_trickling_body_is_refused(hosts: Hosts, code: str, knobs: dict[str, int]) -> None:
    limit(hosts, **knobs)
    with hosts.connect() as other, hosts.connect() as conn:
        conn.sendall(POST)
        trickle(conn, 4)
        assert ended(conn).startswith(b"HTTP/1.1 408")
        assert hits(hosts) == {code: 1}
        assert served(other).startswith(b"HTTP/1.1 200")


def test_the_client_is_not_blamed_for_a_slow_application(hosts: Hosts) -> None:
    size = 30_000_000

    def slow(conn: socket.socket) -> None:
        _, rest = read_head(conn)
        time.sleep(3.5)
        left = size - len(rest)
        while left:
            left -= len(conn.recv(min(left, 1_000_000)))
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    hosts.use(slow)
    limit(hosts, body_idle=1, body_rate=1000, body_rate_seconds=1)
    with hosts.connect() as conn:
        conn.sendall(b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: %d\r\n\r\n" % size)
        conn.sendall(b"x" * size)
        assert read_answer(conn)[1] == b"ok"
    assert hits(hosts) == {}


def test_a_client_waits_for_100_continue_as_long_as_it_takes(hosts: Hosts) -> None:
    def late(conn: socket.socket) -> None:
        read_head(conn)
        time.sleep(2.5)
        conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        conn.recv(10)
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    hosts.use(late)
    limit(hosts, body_idle=1)
    with hosts.connect() as conn:
        conn.sendall(POST.replace(b"1000", b"2\r\nExpect: 100-continue"))
        assert read_head(conn)[0].startswith(b"HTTP/1.1 100")
        conn.sendall(b"ok")
        assert read_head(conn)[0].startswith(b"HTTP/1.1 200")
    assert hits(hosts) == {}


def test_a_silent_application_is_504(hosts: Hosts) -> None:
    def silent(conn: socket.socket) -> None:
        read_head(conn)
        conn.recv(1)

    hosts.use(silent)
    limit(hosts, stream_idle=1)
    head, body = hosts.request(get())
    assert head.startswith(b"HTTP/1.1 504") and b"upstream_idle_timeout" in body
    assert hits(hosts) == {"stream_idle": 1} and flags(hosts) == "SI"


def test_an_answer_that_stops_is_cut(hosts: Hosts) -> None:
    def half(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        conn.recv(1)

    hosts.use(half)
    limit(hosts, stream_idle=1)
    with hosts.connect() as conn:
        conn.sendall(get())
        assert ended(conn).endswith(b"half")
    assert hits(hosts) == {"stream_idle": 1} and flags(hosts) == "SI"


def test_a_client_that_stops_reading_is_cut(hosts: Hosts) -> None:
    piece = b"x" * 65536

    def endless(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1000 * len(piece)))
        for _ in range(1000):
            conn.sendall(piece)

    hosts.use(endless)
    limit(hosts, stream_idle=1)
    with hosts.connect() as conn:
        conn.sendall(get())
        wait_for(lambda: hits(hosts) == {"stream_idle": 1})
        wait_for(lambda: count(hosts, "meshd_connections") == 0)
    assert flags(hosts) == "SI"
    wait_for(lambda: count(hosts, "meshd_requests_in_flight") == 0)


def test_a_stream_that_moves_may_take_long(hosts: Hosts) -> None:
    def steady(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n")
        for _ in range(30):
            conn.sendall(b"x")
            time.sleep(0.1)

    hosts.use(steady)
    limit(hosts, stream_idle=1, request_timeout=1, body_idle=1)
    assert hosts.request(get())[1] == b"x" * 30
    assert hits(hosts) == {}


def test_a_flood_of_tiny_chunks_is_refused_at_a_gateway(edge: Hosts) -> None:
    chunked = POST.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")
    with edge.connect() as other, edge.connect() as conn:
        conn.sendall(chunked + b"1\r\nx\r\n" * 5000)
        assert ended(conn).startswith(b"HTTP/1.1 400")
        assert hits(edge) == {"tiny_chunks": 1}
        assert served(other).startswith(b"HTTP/1.1 200")


def test_switches_and_refusals_of_snapshots_are_counted(hosts: Hosts) -> None:
    before = count(hosts, "meshd_snapshots_total")
    hosts.apply(hosts.outbound())
    assert count(hosts, "meshd_snapshots_total") == before + 1
    assert count(hosts, "meshd_snapshot_refusals_total") == 0
