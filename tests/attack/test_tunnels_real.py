"""Upgrades as a way around the proxy: what a tunnel must never become, and when it must end."""

from __future__ import annotations

import resource
import socket
import threading
import time
from dataclasses import replace

import pytest
from h2_peers import Peer
from hosts import CLUSTER, Hosts, get, read_head, workload
from limits import count, ended, hits, limit
from rig import Authority, wait_for
from test_upgrade_real import ASK, SWITCH, mirror

from meshkit.http.upgrade import accept_of
from tests.attack.raw import resident

SECOND = get("/smuggled", headers="X-Forwarded-Client-Cert: URI=spiffe://x/admin\r\n")
VERSION = ("sec-websocket-version", "13")


class Judge:
    """An application that keeps every byte it was sent, and says what it was told to."""

    def __init__(self, answer: bytes = b"", wait: float = 0.0) -> None:
        self.answer, self.wait = answer, wait
        self.seen: list[bytes] = []

    def __call__(self, conn: socket.socket) -> None:
        answer, rest = b" 200 ", b""
        while answer[8:13] == b" 200 " or not answer[13:]:
            head, rest = read_head(conn, rest)
            if not head:
                return
            self.seen.append(head)
            time.sleep(self.wait)
            answer = self.answer or self.switch(head)
            conn.sendall(answer)
            if answer[15:] == b"\r\n\r\n":
                return  # its end is the body's
        at = len(self.seen) - 1
        self.seen[at] += rest
        conn.sendall(rest)
        while data := conn.recv(65536):
            self.seen[at] += data
            conn.sendall(data)

    @staticmethod
    def switch(head: bytes) -> bytes:
        """A 101 to the last of the protocols offered, or an ordinary answer."""
        lines = [line.partition(b": ") for line in head.split(b"\r\n")]
        fields = {name.lower(): value for name, _, value in lines}
        if b"upgrade" not in fields:
            return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        token = fields[b"upgrade"].split(b",")[-1].strip()
        accept = accept_of(fields.get(b"sec-websocket-key", b""))
        return (
            b"HTTP/1.1 101 Yes\r\nconnection: upgrade\r\nupgrade: %b\r\n" % token
            + b"sec-websocket-accept: %b\r\n\r\n" % accept
        )

    def heads(self) -> bytes:
        return b"".join(self.seen).lower()


def between(hosts: Hosts, mesh: str) -> None:
    """What is spoken between the two hosts."""
    host = hosts.outbound()
    cluster = replace(host.clusters[CLUSTER], protocol=mesh)
    hosts.apply(replace(host, clusters={CLUSTER: cluster}))


# HTTP inside of a tunnel would be HTTP that nobody has judged.

HTTP_AGAIN = ["h2c", "H2C", "websocket, h2c", "h2c,foo", "foo h2c", "HTTP/2.0", "http/1.1", "h2"]
HTTP_AGAIN += ["TLS/1.0", "tls/1.3", "h2c/x", "foo\tbar", "foo;h2c", ",", "connect-udp,h2c"]


@pytest.mark.parametrize("mesh", ["HTTP", "HTTP2"])
def test_no_protocol_of_an_http2_client_is_http_again(hosts: Hosts, mesh: str) -> None:
    judge = Judge()
    hosts.use(judge)
    between(hosts, mesh)
    for protocol in HTTP_AGAIN:
        with hosts.connect() as conn:
            peer = Peer(conn, client=True)
            stream = peer.connect(VERSION, protocol=protocol)
            peer.until(lambda: stream in peer.heads or stream in peer.resets)  # noqa: B023
            status = peer.heads.get(stream, {}).get(":status", "reset")
            assert status in ("400", "501", "reset"), (protocol, status)
    assert judge.seen == []


@pytest.mark.parametrize("mesh", ["HTTP", "HTTP2"])
def test_no_upgrade_is_to_http_again(hosts: Hosts, mesh: str) -> None:
    judge = Judge()
    hosts.use(judge)
    between(hosts, mesh)
    for protocol in (p for p in HTTP_AGAIN if "\t" not in p):
        with hosts.connect() as conn:
            asked = ASK.replace("Upgrade: websocket", f"Upgrade: {protocol}")
            conn.sendall(get("/", headers=asked))
            head, _ = read_head(conn)
            assert head[9:12] in (b"101", b"200"), (protocol, head)
    for word in (b"h2c", b"http/2", b"tls/", b"upgrade: h2", b"upgrade: http"):
        assert word not in judge.heads(), judge.heads()


# A client that takes for granted that there is a tunnel, and an application that lies about it.

LIES: dict[str, bytes] = {
    "200": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "200 that says upgrade": SWITCH.replace(b"101 Switching Protocols", b"200 OK").replace(
        b"\r\n\r\n", b"\r\ncontent-length: 0\r\n\r\n"
    ),
    "no length": b"HTTP/1.1 200 OK\r\n\r\n",
    "426": b"HTTP/1.1 426 Upgrade Required\r\nupgrade: foo\r\ncontent-length: 0\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "another token": SWITCH.replace(b"Upgrade: websocket", b"Upgrade: foo"),
    "h2c": SWITCH.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    "two tokens": SWITCH.replace(b"Upgrade: websocket", b"Upgrade: websocket, foo"),
    "no token": SWITCH.replace(b"Upgrade: websocket\r\n", b""),
    "no connection": SWITCH.replace(b"Connection: Upgrade\r\n", b""),
    "no digest": SWITCH.replace(b"Sec-WebSocket-Accept", b"X-Accept"),
    "digest twice": SWITCH.replace(b"X-Extra: kept", b"Sec-WebSocket-Accept: x"),
    "100, then 200": b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a length": SWITCH.replace(b"X-Extra: kept", b"Content-Length: 5"),
    "chunked": SWITCH.replace(b"X-Extra: kept", b"Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("mesh", ["HTTP", "HTTP2"])
def test_what_follows_a_failed_upgrade_is_no_request(hosts: Hosts, mesh: str) -> None:
    between(hosts, mesh)
    for name, answer in LIES.items():
        for wait in (0.0, 0.03):
            judge = Judge(answer, wait=0.06)
            hosts.use(judge)
            with hosts.connect() as conn:
                conn.settimeout(2)
                conn.sendall(get("/chat", headers=ASK) + (b"" if wait else SECOND))
                time.sleep(wait)
                if wait:
                    conn.sendall(SECOND)
                answered = ended(conn)
                assert b"HTTP/1.1 101" not in answered, name
            assert b"smuggled" not in judge.heads(), (name, judge.seen)


def test_a_101_after_a_100_is_the_answer(hosts: Hosts) -> None:
    judge = Judge(b"HTTP/1.1 100 Continue\r\n\r\n" + SWITCH)
    hosts.use(judge)
    with hosts.connect() as conn:
        conn.sendall(get("/chat", headers=ASK))
        head, rest = read_head(conn)
        while head.startswith(b"HTTP/1.1 100"):
            head, rest = read_head(conn, rest)
        assert head.startswith(b"HTTP/1.1 101"), head
        conn.sendall(SECOND)
        wait_for(lambda: SECOND in judge.seen[0])


def test_an_upgrade_has_no_body_and_is_of_http11(hosts: Hosts) -> None:
    judge = Judge()
    hosts.use(judge)
    for more in ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"):
        with hosts.connect() as conn:
            conn.sendall(get("/chat", headers=ASK + more) + b"hello")
            assert ended(conn).startswith(b"HTTP/1.1 400"), more
    with hosts.connect() as conn:
        conn.sendall(get("/chat", headers=ASK).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b" 200 " in read_head(conn)[0]
    assert b"upgrade" not in judge.heads() and len(judge.seen) == 1


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_a_101_that_nobody_asked_for(hosts: Hosts, version: str) -> None:
    hosts.use(Judge(SWITCH + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"))
    with hosts.connect() as conn:
        if version == "h1":
            conn.sendall(get("/"))
            assert read_head(conn)[0].startswith(b"HTTP/1.1 502")
        else:
            peer = Peer(conn, client=True)
            stream = peer.request(
                *((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "app"))
            )
            assert peer.head(stream)[":status"] == "502"


def test_a_handshake_carries_no_identity_but_ours(hosts: Hosts) -> None:
    judge = Judge()
    hosts.use(judge)
    forged = (
        "X-Forwarded-Client-Cert: URI=spiffe://x/admin\r\nX-Baremesh-Source: admin\r\n"
        "X-Baremesh-Destination: admin\r\nX-Request-Id: mine\r\n"
    )
    asked = ASK.replace(
        "keep-alive, Upgrade", "Upgrade, x-request-id, x-forwarded-client-cert, traceparent, host"
    )
    with hosts.connect() as conn:
        conn.sendall(get("/chat", headers=asked + forged))
        head, _ = read_head(conn)
    assert head.startswith(b"HTTP/1.1 101") and b"x-baremesh" not in head.lower(), head
    with hosts.connect() as conn:
        peer = Peer(conn, client=True)
        names = [tuple(line.lower().split(": ")) for line in forged.strip().split("\r\n")]
        stream = peer.connect(VERSION, *names)  # type: ignore[arg-type]
        answer = peer.head(stream)
    assert answer[":status"] == "200" and not [k for k in answer if k.startswith("x-baremesh")]
    seen = judge.heads()
    assert b"admin" not in seen and seen.count(b"x-request-id: mine\r\n") == 2, seen
    assert seen.count(b"x-forwarded-client-cert: by=spiffe://cluster.local/ns/default/sa/app;") == 2


# Tunnels live long: what was allowed when they began may not be any more.


def plain_tunnel(hosts: Hosts) -> socket.socket:
    conn = socket.create_connection(("127.0.0.1", hosts.plain), timeout=10)
    conn.sendall(get("/chat", headers=ASK))
    assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
    return conn


def strict(hosts: Hosts) -> None:
    one = workload(hosts.application.port, "STRICT")
    hosts.configs["far"] = replace(hosts.configs["far"], workloads=(one,))
    assert hosts.far.configure(hosts.configs["far"], revision="strict").type == "ack"


def test_a_plaintext_tunnel_ends_when_plaintext_does(hosts: Hosts) -> None:
    hosts.use(mirror)
    with plain_tunnel(hosts) as conn:
        conn.sendall(b"hello")
        assert conn.recv(5) == b"hello"
        strict(hosts)
        conn.settimeout(3)
        assert ended(conn) == b""


def test_a_plaintext_stream_ends_when_plaintext_does(hosts: Hosts) -> None:
    hosts.use(mirror)
    conn = socket.create_connection(("127.0.0.1", hosts.plain), timeout=10)
    with conn:
        peer = Peer(conn, client=True)
        hosts.use(Judge())
        stream = peer.connect(VERSION)
        assert peer.head(stream)[":status"] == "200"
        strict(hosts)
        conn.settimeout(3)
        peer.until(lambda: stream in peer.resets or stream in peer.ended or peer.eof)


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_a_plaintext_request_has_a_while_to_end(hosts: Hosts, version: str) -> None:
    limit(hosts, "far", forbidden_grace=1)
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nb"
    hosts.use(lambda conn: (read_head(conn), conn.sendall(begun), conn.recv(1)))
    with socket.create_connection(("127.0.0.1", hosts.plain), timeout=5) as conn:
        if version == "h1":
            conn.sendall(get())
            assert read_head(conn)[0].startswith(b"HTTP/1.1 200")
            strict(hosts)
            conn.settimeout(0.7)
            with pytest.raises(TimeoutError):
                conn.recv(100) and conn.recv(100)
        else:
            peer = Peer(conn, client=True)
            names = (":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "app")
            peer.head(peer.request(*names))
            strict(hosts)
        conn.settimeout(5)
        ended(conn)
    wait_for(lambda: hits(hosts, "far").get("forbidden_grace") == 1)


@pytest.mark.parametrize("mesh", ["HTTP", "HTTP2"])
@pytest.mark.parametrize("side", ["near", "far"])
def test_a_tunnel_ends_with_the_roots_that_it_stands_on(hosts: Hosts, side: str, mesh: str) -> None:
    between(hosts, mesh)
    hosts.use(Judge())
    with hosts.connect() as conn:
        conn.sendall(get("/chat", headers=ASK))
        assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
        getattr(hosts, side).trust(Authority("other.example"))
        conn.settimeout(3)
        assert ended(conn) == b""


def test_a_tunnel_that_is_half_closed_and_silent_is_ended(hosts: Hosts) -> None:
    limit(hosts, stream_idle=1)
    hosts.use(mirror)
    held = threading.Event()

    def keep(conn: socket.socket) -> None:
        mirror(conn)
        held.wait(10)

    hosts.use(keep)
    with hosts.connect() as conn:
        conn.sendall(get("/chat", headers=ASK))
        assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
        conn.shutdown(socket.SHUT_WR)
        started = time.monotonic()
        assert ended(conn) == b"" and time.monotonic() - started < 5
    held.set()
    wait_for(lambda: hits(hosts).get("stream_idle", 0) == 1)


# Readers that stop

TUNNELS = 40
PER_TUNNEL = 256 << 10


def blast(conn: socket.socket) -> None:
    """Switches, and then sends without end and never reads."""
    head, _ = read_head(conn)
    conn.sendall(Judge.switch(head))
    conn.settimeout(4)
    while True:
        conn.sendall(bytes(1 << 16))


@pytest.mark.parametrize("client", ["h1", "h2"])
def test_tunnels_that_nobody_reads_cost_little(hosts: Hosts, client: str) -> None:
    hosts.use(blast)
    hosts.request(get())  # what is made once
    before = [resident(side.process.pid) for side in (hosts.near, hosts.far)]
    conns = [hosts.connect() for _ in range(TUNNELS if client == "h1" else 1)]
    try:
        if client == "h1":
            for conn in conns:
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                conn.sendall(get("/chat", headers=ASK))
                conn.sendall(b"x" * 4096)
        else:
            peer = Peer(conns[0], client=True)
            streams = [peer.connect(VERSION) for _ in range(TUNNELS)]
            for stream in streams:
                peer.head(stream)
                peer.h2.send_data(stream, b"x" * 1000)
            peer.flush()
        time.sleep(1.5)
        after = [resident(side.process.pid) for side in (hosts.near, hosts.far)]
    finally:
        for conn in conns:
            conn.close()
    each = [(b - a) // TUNNELS for a, b in zip(before, after, strict=True)]
    assert max(each) < PER_TUNNEL, each


def test_streams_that_each_take_a_descriptor_end_nobody_else(hosts: Hosts) -> None:
    """A connection of HTTP/2 asks for a hundred tunnels, and each is a connection upstream."""
    hosts.use(Judge())
    hosts.request(get())
    pid = hosts.near.process.pid
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (200, 4096))
    with hosts.connect() as kept:
        kept.sendall(get("/chat", headers=ASK))
        assert read_head(kept)[0].startswith(b"HTTP/1.1 101")
        conns = [hosts.connect() for _ in range(4)]
        for conn in conns:
            peer = Peer(conn, client=True)
            streams = [peer.connect(VERSION) for _ in range(95)]
            for stream in streams:
                peer.until(lambda: stream in peer.heads or stream in peer.resets)  # noqa: B023
        kept.sendall(b"still")
        assert kept.recv(5) == b"still"
        for conn in conns:
            conn.close()
        wait_for(lambda: hosts.request(get())[0].startswith(b"HTTP/1.1 200"))
        kept.sendall(b"still")
        assert kept.recv(5) == b"still"
    assert hosts.near.process.poll() is None
    assert not count(hosts, "meshd_fiber_errors_total")
