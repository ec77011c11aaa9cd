"""Limits of connections and handshakes: beyond one it is closed, counted once, others go on."""

from __future__ import annotations

import resource
import socket
import time
from pathlib import Path

import pytest
from hosts import Hosts, get, read_answer
from limits import count, edge, ended, hits, limit, served
from rig import identity, wait_for
from test_refusals_real import dial

__all__ = ["edge"]


def test_handshakes_of_one_address_have_a_rate(hosts: Hosts, tmp_path: Path) -> None:
    pair = hosts.authority.issue(identity("caller"))
    with hosts.connect() as good:
        assert served(good).startswith(b"HTTP/1.1 200")
        limit(hosts, "far", handshakes_per_second=1, handshakes_burst=2)
        served_now = 0
        while dial(hosts, tmp_path, pair).startswith(b"HTTP/1.1 200"):
            served_now += 1
            assert served_now < 10, "a slow machine may earn some tokens meanwhile, not these"
        assert served_now >= 2, "the burst"
        assert hits(hosts, "far") == {"handshake_rate": 1}
        assert served(good).startswith(b"HTTP/1.1 200"), "what is established goes on"
    wait_for(lambda: dial(hosts, tmp_path, pair).startswith(b"HTTP/1.1 200"))  # a token is back


def test_the_oldest_unfinished_handshake_makes_room(hosts: Hosts) -> None:
    limit(hosts, "far", unfinished_handshakes=2)
    silent = [socket.create_connection(("127.0.0.1", hosts.mesh), timeout=10) for _ in range(2)]
    wait_for(lambda: count(hosts, "meshd_connections_total", "far", listener="mesh") == 2)
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200")
    assert silent[0].recv(1) == b""
    silent[1].settimeout(0.1)
    with pytest.raises(TimeoutError):
        silent[1].recv(1)
    assert hits(hosts, "far") == {"unfinished_handshakes": 1}
    for conn in silent:
        conn.close()


def test_a_handshake_has_a_deadline(hosts: Hosts) -> None:
    limit(hosts, "far", tls_handshake=1)
    with socket.create_connection(("127.0.0.1", hosts.mesh), timeout=10) as silent:
        assert hosts.request(get())[0].startswith(b"HTTP/1.1 200")
        assert silent.recv(1) == b""
    assert hits(hosts, "far") == {"handshake_timeout": 1}


@pytest.mark.parametrize("knob", ["source_connections", "listener_connections"])
def test_connections_are_limited(hosts: Hosts, knob: str) -> None:
    limit(hosts, **{knob: 2})
    first, second = hosts.connect(), hosts.connect()
    with first, second:
        assert served(first).startswith(b"HTTP/1.1 200")
        assert served(second).startswith(b"HTTP/1.1 200")
        with hosts.connect() as third:
            assert ended(third) == b""
        assert count(hosts, "meshd_connections_refused_total", reason=knob) == 1
        assert served(first).startswith(b"HTTP/1.1 200")
        other = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", hosts.proxy), 10, other) as fourth:
            if knob == "source_connections":
                assert served(fourth).startswith(b"HTTP/1.1 200"), "another address has its own"
            else:
                assert ended(fourth) == b""

    def admitted() -> bool:
        with hosts.connect() as conn:
            conn.sendall(get())
            return ended_head(conn).startswith(b"HTTP/1.1 200")

    wait_for(admitted)  # places are given back


def ended_head(conn: socket.socket) -> bytes:
    """An answer's head; b"" if the connection was refused."""
    try:
        return read_answer(conn)[0]
    except ConnectionResetError:
        return b""


def test_a_gateway_admits_200_connections_of_one_address(edge: Hosts) -> None:
    conns = [edge.connect() for _ in range(201)]
    assert ended(conns.pop()) == b""
    assert count(edge, "meshd_connections_refused_total", reason="source_connections") == 1
    assert served(conns[0]).startswith(b"HTTP/1.1 200")
    for conn in conns:
        conn.close()


def test_a_gateways_connection_carries_1000_requests(edge: Hosts) -> None:
    with edge.connect() as conn, edge.connect() as other:
        for _ in range(100):
            conn.sendall(get() * 10)
            heads: list[bytes] = []
            rest = b""
            while len(heads) < 10:
                head, body = read_answer(conn, rest)
                length = len(head) and int(head.lower().split(b"content-length: ")[1].split()[0])
                rest = body[length:]
                heads.append(head)
        assert [b"connection: close" in head for head in heads] == [False] * 9 + [True]
        assert ended(conn) == b""
        assert hits(edge) == {"keepalive_requests": 1}
        assert served(other).startswith(b"HTTP/1.1 200")


def test_an_old_connections_next_answer_is_its_last(hosts: Hosts) -> None:
    limit(hosts, keepalive_age=1)
    with hosts.connect() as conn:
        assert b"connection: close" not in served(conn)
        time.sleep(2.2)
        assert b"connection: close" in served(conn)
        assert ended(conn) == b""
    assert hits(hosts) == {"keepalive_age": 1}
    assert b"connection: close" not in hosts.request(get())[0]


def test_an_idle_connection_is_closed(hosts: Hosts) -> None:
    limit(hosts, keepalive_idle=1)
    with hosts.connect() as conn:
        assert served(conn).startswith(b"HTTP/1.1 200")
        assert ended(conn) == b""
    assert hits(hosts) == {"keepalive_idle": 1}


def test_a_head_that_follows_a_request_has_its_deadline_too(hosts: Hosts) -> None:
    limit(hosts, head_timeout=1)
    with hosts.connect() as conn:
        conn.sendall(get() + b"GET /slow HTTP/1.1\r\nHo")
        assert b"HTTP/1.1 408" in ended(conn)
    assert hits(hosts) == {"head_timeout": 1}


@pytest.mark.parametrize("side", ["near", "far"])
def test_idle_upstream_connections_are_closed(hosts: Hosts, side: str) -> None:
    limit(hosts, side, upstream_idle_mesh=1, upstream_idle_local=1)
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200")
    wait_for(lambda: count(hosts, "meshd_upstream_idle_connections", side) == 1)
    wait_for(lambda: count(hosts, "meshd_upstream_idle_connections", side) == 0)
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200")


def descriptors(hosts: Hosts) -> set[int]:
    """What the near worker has open."""
    return {int(p.name) for p in Path(f"/proc/{hosts.near.process.pid}/fd").iterdir()}


def allow(hosts: Hosts, most: int) -> None:
    """Let it have so many."""
    pid = hosts.near.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))


def stage(hosts: Hosts, number: int) -> None:
    wait_for(lambda: f'"stage": {number}' in hosts.near.stderr.read_text())


def test_short_of_descriptors_less_and_less_is_served(hosts: Hosts) -> None:
    conns = [hosts.connect() for _ in range(100)]
    for conn in conns[:3]:
        assert b"connection: close" not in served(conn)
    wait_for(lambda: count(hosts, "meshd_connections") == 100)

    allow(hosts, int(len(descriptors(hosts)) / 0.955))
    stage(hosts, 1)
    head = served(conns[0])
    assert head.startswith(b"HTTP/1.1 200") and b"connection: close" in head
    assert hits(hosts) == {"overload_keepalive": 1}

    allow(hosts, len(descriptors(hosts)) + 1)
    stage(hosts, 2)
    conns[1].sendall(get())
    head, body = read_answer(conns[1])
    assert head.startswith(b"HTTP/1.1 503") and b"overloaded" in body
    assert b"connection: close" in head and ended(conns[1]) == b""
    assert hits(hosts) == {"overload_keepalive": 1, "overload_refused": 1}

    have = descriptors(hosts)
    allow(hosts, min(set(range(1000)) - have))  # the next would be the lowest free number
    waiting = hosts.connect()
    wait_for(lambda: count(hosts, "meshd_accept_pauses_total") > 0)
    allow(hosts, 1000)
    stage(hosts, 0)
    assert served(waiting).startswith(b"HTTP/1.1 200"), "accepting goes on"
    assert served(conns[2]).startswith(b"HTTP/1.1 200"), "one that was open all the time"
    for conn in (*conns, waiting):
        conn.close()
