"""Web sockets where one side at least speaks HTTP/2 (RFC 8441): every way through two hosts."""

from __future__ import annotations

import socket
from base64 import b64decode
from dataclasses import replace

import pytest
from h2_peers import Peer
from hosts import CLUSTER, Hosts, get, read_answer, read_head, workload
from limits import count, ended, hits, limit
from test_upgrade_real import ASK, KEY, line, received

from meshkit.http.upgrade import accept_of

VERSION = ("sec-websocket-version", "13")
seen: dict[str, str] = {}
"""What the application was asked last."""


def h1_application(conn: socket.socket) -> None:
    """Switches as RFC 6455 wants it, and sends back what comes."""
    head, rest = read_head(conn)
    lines = [line.partition(": ") for line in head.decode().lower().split("\r\n")]
    seen.clear()
    seen.update({name: value for name, _, value in lines})
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-k"))
    key = key.partition(b": ")[2]
    assert len(b64decode(key)) == 16 and seen["upgrade"] == "websocket"
    conn.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_of(key) + b"\r\nX-Extra: kept\r\n\r\n" + rest
    )
    while data := conn.recv(65536):
        conn.sendall(data)


def h2_application(conn: socket.socket) -> None:
    """Takes every extended CONNECT, and sends back what comes on it."""
    peer = Peer(conn, client=False)
    sent: dict[int, int] = {}
    while True:
        for stream in peer.heads.keys() - sent.keys():
            seen.clear()
            seen.update(peer.heads[stream])
            sent[stream] = 0
            peer.h2.send_headers(stream, [(":status", "200"), ("x-extra", "kept")])
        for stream in list(peer.bodies):
            data, over = peer.bodies[stream][sent[stream] :], stream in peer.ended
            sent[stream] += len(data)
            peer.send(stream, data, over)
            if over:
                del peer.bodies[stream]
        peer.flush()
        # `send` reads as well, where it waits for credit.
        waiting = all(len(data) == sent[stream] for stream, data in peer.bodies.items())
        if waiting and not peer.turn():
            return


def arrange(hosts: Hosts, mesh: str, application: str) -> None:
    """What is spoken between the hosts, and to the application."""
    hosts.use(h2_application if application == "HTTP2" else h1_application)
    there = workload(hosts.application.port)
    port = replace(there.ports[0], protocol=application)
    far = hosts.configs["far"]
    hosts.configs["far"] = replace(far, workloads=(replace(there, ports=(port,)),))
    assert hosts.far.configure(hosts.configs["far"], revision="spoken").type == "ack"
    host = hosts.outbound()
    cluster = replace(host.clusters[CLUSTER], protocol=mesh)
    hosts.apply(replace(host, clusters={CLUSTER: cluster}))


SPOKEN = [(mesh, app) for mesh in ("HTTP", "HTTP2") for app in ("HTTP", "HTTP2")]
DATA = bytes(range(256)) * 2000


@pytest.mark.parametrize(("mesh", "application"), SPOKEN)
def test_an_http2_client_has_a_tunnel(hosts: Hosts, mesh: str, application: str) -> None:
    arrange(hosts, mesh, application)
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        first, second = peer.connect(VERSION), peer.connect(VERSION)
        for stream in (first, second):
            head = peer.head(stream)
            assert head[":status"] == "200" and head["x-extra"] == "kept"
            assert not {"sec-websocket-accept", "upgrade", "connection"} & set(head)
        peer.send(first, b"first")
        peer.send(second, DATA)
        assert peer.body(second, len(DATA)) == DATA and peer.body(first, 5) == b"first"
        peer.send(first, b"", end=True)
        peer.until(lambda: first in peer.ended)
        peer.send(second, b"more")
        assert peer.body(second, len(DATA) + 4).endswith(b"more")
    assert (":protocol" in seen) == (application == "HTTP2")
    assert seen["sec-websocket-version"] == "13"
    logged = line(hosts)
    assert (logged["protocol"], logged["response_code"]) == ("HTTP/2", 200), logged
    assert count(hosts, "meshd_upgrades_total", protocol="websocket") == 2


@pytest.mark.parametrize(("mesh", "application"), SPOKEN[1:])
def test_an_http1_client_has_a_tunnel(hosts: Hosts, mesh: str, application: str) -> None:
    arrange(hosts, mesh, application)
    with hosts.connect() as conn:
        conn.sendall(get("/chat", headers=ASK) + b"early")
        head, rest = read_head(conn)
        assert head.startswith(b"HTTP/1.1 101"), head
        assert b"sec-websocket-accept: " + accept_of(KEY.encode()) in head
        assert b"x-extra: kept" in head and b":status" not in head
        assert rest + received(conn, 5 - len(rest)) == b"early"
        conn.sendall(DATA)
        assert received(conn, len(DATA)) == DATA
        conn.shutdown(socket.SHUT_WR)
        assert conn.recv(1) == b""
    if application == "HTTP2":
        assert seen[":protocol"] == "websocket" and "sec-websocket-key" not in seen
        assert seen[":method"] == "CONNECT" and seen[":path"] == "/chat"
    logged = line(hosts)
    assert (logged["response_code"], logged["response_flags"]) == (101, "-"), logged
    assert logged["bytes_received"] == logged["bytes_sent"] == 5 + len(DATA)


def test_an_application_without_extended_connect_is_501(hosts: Hosts) -> None:
    arrange(hosts, "HTTP2", "HTTP2")

    def old(conn: socket.socket) -> None:
        peer = Peer(conn, client=False, connect=False)
        while peer.turn():
            pass

    hosts.use(old)
    with hosts.connect() as conn:
        conn.sendall(get("/chat", headers=ASK))
        head, body = read_answer(conn)
    assert head.startswith(b"HTTP/1.1 501") and b"upgrade_not_supported" in body
    assert "extended CONNECT" in line(hosts, "far")["upstream_transport_failure_reason"]


def test_an_application_that_declines(hosts: Hosts) -> None:
    arrange(hosts, "HTTP2", "HTTP2")

    def decline(conn: socket.socket) -> None:
        peer = Peer(conn, client=False)
        answered: set[int] = set()
        while peer.turn():
            for stream in set(peer.heads) - answered:
                answered.add(stream)
                peer.h2.send_headers(stream, [(":status", "403"), ("content-length", "2")])
                peer.send(stream, b"no", end=True)

    hosts.use(decline)
    with hosts.connect() as conn:
        for _ in range(2):
            conn.sendall(get("/chat", headers=ASK))
            head, body = read_answer(conn)
            assert head.startswith(b"HTTP/1.1 403") and body == b"no"
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        stream = peer.connect(VERSION)
        assert peer.head(stream)[":status"] == "403"
        assert peer.body(stream, 2) == b"no"


def test_a_101_with_the_wrong_digest_is_502_for_http2_too(hosts: Hosts) -> None:
    arrange(hosts, "HTTP2", "HTTP")
    answer = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    wrong = b"Sec-WebSocket-Accept: " + accept_of(KEY.encode()) + b"\r\n\r\n"
    hosts.use(lambda conn: (read_head(conn), conn.sendall(answer + wrong), conn.recv(1)))
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        assert peer.head(peer.connect(VERSION))[":status"] == "502"
    assert hits(hosts, "far") == {"upstream_bad_websocket_accept": 1}


@pytest.mark.parametrize("mesh", ["HTTP", "HTTP2"])
def test_resets_pass_through_a_tunnel(hosts: Hosts, mesh: str) -> None:
    arrange(hosts, mesh, "HTTP")
    gone: list[bytes] = []

    def watch(conn: socket.socket) -> None:
        h1_application_head(conn)
        gone.append(ended(conn))

    hosts.use(watch)
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        stream = peer.connect(VERSION)
        assert peer.head(stream)[":status"] == "200"
        peer.h2.reset_stream(stream, 8)
        peer.flush()
        for _ in range(100):
            if gone:
                break
            conn.settimeout(0.05)
            try:
                peer.turn()
            except TimeoutError:
                pass
        assert gone == [b""]
    assert line(hosts)["response_flags"] == "DC"


def test_an_application_that_dies_resets_the_stream(hosts: Hosts) -> None:
    arrange(hosts, "HTTP2", "HTTP")

    def die(conn: socket.socket) -> None:
        h1_application_head(conn)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    hosts.use(die)
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        stream = peer.connect(VERSION)
        peer.until(lambda: stream in peer.resets)
    assert line(hosts)["response_flags"] == "UC"


def h1_application_head(conn: socket.socket) -> None:
    """The handshake alone."""
    head, _ = read_head(conn)
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-k"))
    conn.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_of(key.partition(b": ")[2]) + b"\r\n\r\n"
    )


def test_an_idle_tunnel_costs_its_stream_only(hosts: Hosts) -> None:
    arrange(hosts, "HTTP2", "HTTP")
    limit(hosts, stream_idle=1)
    arrange(hosts, "HTTP2", "HTTP")
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        idle, busy = peer.connect(VERSION), peer.connect(VERSION)
        conn.settimeout(0.3)
        while idle not in peer.resets and idle not in peer.ended:
            peer.send(busy, b"x")
            try:
                peer.turn()
            except TimeoutError:
                pass
        assert busy not in peer.resets and busy not in peer.ended
    assert hits(hosts) == {"stream_idle": 1}


def test_a_plain_connect_is_405_and_no_version_is_400(hosts: Hosts) -> None:
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        stream = peer.request((":method", "CONNECT"), (":authority", "app:80"), end=False)
        assert peer.head(stream)[":status"] == "405"
        stream = peer.connect()
        assert peer.head(stream)[":status"] == "400"


def test_another_protocol_becomes_that_upgrade(hosts: Hosts) -> None:
    heads: list[bytes] = []

    def foo(conn: socket.socket) -> None:
        head, rest = read_head(conn)
        heads.append(head.lower())
        conn.sendall(b"HTTP/1.1 101 Go\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n" + rest)
        conn.sendall(conn.recv(100))

    arrange(hosts, "HTTP2", "HTTP")
    hosts.use(foo)
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        stream = peer.connect(protocol="foo")
        assert peer.head(stream)[":status"] == "200"
        peer.send(stream, b"data")
        assert peer.body(stream, 4) == b"data"
    assert b"upgrade: foo\r\n" in heads[0] and b"sec-websocket" not in heads[0]
