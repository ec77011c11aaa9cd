"""Upgrades over HTTP/1.1 on both sides: hand-made peers on real sockets, and real web sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hosts import Hosts, get, read_answer, read_head, workload
from limits import count, edge, ended, hits, limit
from rig import listen, wait_for
from websockets.exceptions import ConnectionClosedError
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from meshkit.http.upgrade import accept_of
from meshkit.snapshot import messages
from meshkit.snapshot.types import RetryPolicy

__all__ = ["edge"]

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ASK = (
    f"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_of(KEY.encode()) + b"\r\nX-Extra: kept\r\n\r\n"
)
Handler = Callable[[socket.socket], object]


def mirror(conn: socket.socket) -> None:
    """Switches, then sends back what comes."""
    _, rest = read_head(conn)
    conn.sendall(SWITCH + rest)
    while data := conn.recv(65536):
        conn.sendall(data)


def received(conn: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = conn.recv(size - len(data))
        assert piece, data
        data += piece
    return data


def ask(hosts: Hosts, headers: str = ASK, more: bytes = b"") -> socket.socket:
    conn = hosts.connect()
    conn.sendall(get("/chat", headers=headers) + more)
    return conn


def line(hosts: Hosts, side: str = "near") -> dict[str, Any]:
    """The last line of a host's access log."""
    rig = getattr(hosts, side)
    wait_for(lambda: rig.access_log.read_text().count("\n") > 0)
    last: dict[str, Any] = json.loads(rig.access_log.read_text().splitlines()[-1])
    return last


def test_a_tunnel_carries_anything_both_ways(hosts: Hosts) -> None:
    hosts.use(mirror)
    with ask(hosts) as conn:
        head, rest = read_head(conn)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n") and not rest
        lines = head.lower().split(b"\r\n")
        assert b"connection: upgrade" in lines and b"upgrade: websocket" in lines
        assert b"x-extra: kept" in lines and b"sec-websocket-accept: " in head.lower()
        assert not [name for name in lines if name.startswith((b"x-baremesh", b"content-length"))]
        for data in (b"\x81\x05hello", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 5000):
            conn.sendall(data)
            assert received(conn, len(data)) == data
        wait_for(lambda: count(hosts, "meshd_tunnels") == 1)
        conn.shutdown(socket.SHUT_WR)
        assert conn.recv(1) == b""
    for side in ("near", "far"):
        logged = line(hosts, side)
        assert (logged["response_code"], logged["response_flags"]) == (101, "-"), logged
        assert logged["bytes_received"] == logged["bytes_sent"] == 7 + 18 + 1_280_000
        assert logged["path"] == "/chat" and logged["upstream_service_time"] != "-"
        assert count(hosts, "meshd_upgrades_total", side, protocol="websocket") == 1
        assert count(hosts, "istio_requests_total", side, response_code="101") == 1
    wait_for(lambda: count(hosts, "meshd_tunnels") == 0)


def test_the_application_is_asked_in_our_words(hosts: Hosts) -> None:
    heads: list[bytes] = []

    def one(conn: socket.socket) -> None:
        heads.append(read_head(conn)[0])
        conn.sendall(SWITCH)

    hosts.use(one)
    headers = ASK.replace("Upgrade\r\n", "Upgrade, X-Gone, HTTP2-Settings\r\n", 1)
    headers += "X-Gone: 1\r\nX-Stays: 2\r\nHTTP2-Settings: AA\r\nKeep-Alive: 5\r\n"
    with ask(hosts, headers) as conn:
        assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
    lines = heads[0].lower().split(b"\r\n")
    assert lines[0] == b"get /chat http/1.1"
    assert lines.count(b"connection: upgrade") == lines.count(b"upgrade: websocket") == 1
    assert b"sec-websocket-key: " + KEY.lower().encode() in lines
    assert b"sec-websocket-extensions: permessage-deflate" in lines and b"x-stays: 2" in lines
    for gone in (b"x-gone", b"http2-settings", b"keep-alive", b"content-length", b"transfer-"):
        assert not [name for name in lines if name.startswith(gone)]


def test_bytes_that_come_too_early_wait_for_the_101(hosts: Hosts) -> None:
    seen: list[bytes] = []

    def slow(conn: socket.socket) -> None:
        _, rest = read_head(conn)
        conn.settimeout(0.3)
        try:
            rest += conn.recv(1)
        except TimeoutError:
            pass
        seen.append(rest)
        conn.settimeout(10)
        conn.sendall(SWITCH + b"first")
        seen.append(received(conn, 5))

    hosts.use(slow)
    with ask(hosts, more=b"early") as conn:
        head, rest = read_head(conn)
        assert head.startswith(b"HTTP/1.1 101")
        assert rest + received(conn, 5 - len(rest)) == b"first"
    wait_for(lambda: len(seen) == 2)
    assert seen == [b"", b"early"]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (KEY, "c2hvcnQ=", b"bad_websocket_key"),
        (": 13", ": 12", b"bad_websocket_version"),
        ("Upgrade: w", "Content-Length: 5\r\nUpgrade: w", b"upgrade_with_body"),
        ("Upgrade: w", "Transfer-Encoding: chunked\r\nUpgrade: w", b"upgrade_with_body"),
    ],
)
def test_a_handshake_that_is_none_is_400(hosts: Hosts, old: str, new: str, code: bytes) -> None:
    hosts.use(mirror)
    with ask(hosts, ASK.replace(old, new, 1)) as conn:
        answer = ended(conn)
    assert answer.startswith(b"HTTP/1.1 400") and code in answer
    assert hosts.application.connections == 0
    logged = line(hosts)
    assert (logged["response_flags"], logged["response_code_details"]) == ("DPE", code.decode())


@pytest.mark.parametrize(
    "switch",
    [
        SWITCH.replace(b"Accept: ", b"Accept: x"),
        SWITCH.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        SWITCH.replace(b"Connection: Upgrade\r\n", b""),
        SWITCH.replace(b"X-Extra: kept", b"Content-Length: 5"),
    ],
)
def test_a_101_that_is_none_is_502_and_no_tunnel(hosts: Hosts, switch: bytes) -> None:
    hosts.use(lambda conn: (read_head(conn), conn.sendall(switch + b"x" * 10), conn.recv(1)))
    with ask(hosts) as conn:
        head, body = read_answer(conn)
    assert head.startswith(b"HTTP/1.1 502") and b"upstream_protocol_error" in body
    assert line(hosts, "far")["response_flags"] == "UPE"
    assert [name for name in hits(hosts, "far") if name.startswith("upstream_")]


def test_another_answer_is_an_ordinary_one(hosts: Hosts) -> None:
    def refuse(conn: socket.socket) -> None:
        while read_head(conn)[0]:
            conn.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    hosts.use(refuse)
    with ask(hosts) as conn:
        for _ in range(2):
            head, body = read_answer(conn)
            assert head.startswith(b"HTTP/1.1 403") and body == b"no"
            assert b"connection: close" not in head
            conn.sendall(get())
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 403")
    assert hosts.application.connections == 1, "the connection is used again"


def test_a_refused_upgrade_does_not_make_requests_of_early_bytes(hosts: Hosts) -> None:
    def refuse(conn: socket.socket) -> None:
        while read_head(conn)[0]:
            conn.sendall(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")

    hosts.use(refuse)
    with ask(hosts, more=get("/smuggled")) as conn:
        answer = ended(conn)
    assert answer.count(b"HTTP/1.1 ") == 1 and b"connection: close" in answer
    wait_for(lambda: hosts.near.access_log.read_text())
    assert "smuggled" not in hosts.near.access_log.read_text()


def test_other_protocols_pass_and_h2c_never_does(hosts: Hosts) -> None:
    heads: list[bytes] = []

    def foo(conn: socket.socket) -> None:
        head, rest = read_head(conn)
        heads.append(head.lower())
        if b"upgrade: foo/2" not in head.lower():
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        conn.sendall(b"HTTP/1.1 101 Go\r\nUpgrade: Foo/2\r\nConnection: upgrade\r\n\r\nhello")
        conn.sendall(rest + conn.recv(100))

    hosts.use(foo)
    with ask(hosts, "Connection: upgrade\r\nUpgrade: foo/2, h2c\r\n") as conn:
        head, rest = read_head(conn)
        assert head.startswith(b"HTTP/1.1 101") and b"upgrade: foo/2" in head.lower()
        conn.sendall(b"data")
        assert rest + received(conn, 9 - len(rest)) == b"hellodata"
    assert count(hosts, "meshd_upgrades_total", protocol="other") == 1
    with ask(hosts, "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\n") as conn:
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    assert b"upgrade" not in heads[1]


def test_http10_asks_for_nothing(hosts: Hosts) -> None:
    with hosts.connect() as conn:
        conn.sendall(get("/chat", headers=ASK).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, body = read_answer(conn)
    assert head.startswith(b"HTTP/1.1 200") and b"upgrade: websocket" not in body.lower()


def test_the_routes_timeout_is_for_the_answer_only(hosts: Hosts) -> None:
    hosts.use(mirror)
    hosts.apply(hosts.outbound(timeout=0.5))
    with ask(hosts) as conn:
        assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
        time.sleep(1.2)
        conn.sendall(b"still here")
        assert received(conn, 10) == b"still here"
    hosts.use(lambda conn: (read_head(conn), conn.recv(1)))
    with ask(hosts) as conn:
        assert read_head(conn)[0].startswith(b"HTTP/1.1 504")


def test_an_idle_tunnel_is_ended(hosts: Hosts) -> None:
    hosts.use(mirror)
    limit(hosts, stream_idle=1)
    started = time.monotonic()
    with ask(hosts) as conn:
        assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
        assert ended(conn) == b""
    assert 1 <= time.monotonic() - started < 5
    assert hits(hosts) == {"stream_idle": 1}
    logged = line(hosts)
    assert (logged["response_code"], logged["response_flags"]) == (101, "SI")


def test_an_application_that_dies_is_seen(hosts: Hosts) -> None:
    def die(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(SWITCH + b"bye")
        time.sleep(0.2)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    hosts.use(die)
    with ask(hosts) as conn:
        _, rest = read_head(conn)
        assert rest + ended(conn) == b"bye"
    assert line(hosts, "far")["response_flags"] == "UC"
    assert line(hosts)["response_flags"] == "UC"


def test_a_client_that_dies_is_seen(hosts: Hosts) -> None:
    gone = threading.Event()

    def wait(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(SWITCH)
        ended(conn)
        gone.set()

    hosts.use(wait)
    with ask(hosts) as conn:
        read_head(conn)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert gone.wait(5)
    assert line(hosts)["response_flags"] == "DC"


def test_a_try_that_failed_before_the_101_is_repeated(hosts: Hosts) -> None:
    tries: list[int] = []

    def second(conn: socket.socket) -> None:
        tries.append(1)
        if len(tries) > 1:
            mirror(conn)
            return
        read_head(conn)
        conn.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    hosts.use(second)
    hosts.apply(hosts.outbound(retry=RetryPolicy(attempts=2, retry_on=("5xx",))))
    with ask(hosts, more=b"kept") as conn:
        assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
        assert received(conn, 4) == b"kept"
    assert len(tries) == 2 and count(hosts, "meshd_retries_total") == 1


def test_a_plain_port_takes_upgrades_too(hosts: Hosts) -> None:
    hosts.use(mirror)
    with socket.create_connection(("127.0.0.1", hosts.plain), timeout=10) as conn:
        conn.sendall(get("/chat", headers=ASK) + b"early")
        head, rest = read_head(conn)
        assert head.startswith(b"HTTP/1.1 101")
        assert rest + received(conn, 5 - len(rest)) == b"early"


def test_a_gateway_takes_upgrades_too(edge: Hosts) -> None:
    edge.use(mirror)
    with ask(edge) as conn:
        assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
        conn.sendall(b"ping")
        assert received(conn, 4) == b"ping"


def test_a_drain_lets_tunnels_go_on_until_it_ends(hosts: Hosts) -> None:
    hosts.use(mirror)
    with ask(hosts) as conn:
        assert read_head(conn)[0].startswith(b"HTTP/1.1 101")
        hosts.near.send(messages.drain(1.5))
        time.sleep(0.5)
        conn.sendall(b"still here")
        assert received(conn, 10) == b"still here"
        assert ended(conn) == b""
    assert hosts.near.process.wait(5) == 0
    logged = line(hosts)
    assert (logged["response_code"], logged["bytes_sent"]) == (101, 10)


# Web sockets


def chat(ws: ServerConnection) -> None:
    """Echoes messages; "close" asks for an end."""
    for message in ws:
        if message == "close":
            ws.close(4001, "as asked")
        else:
            ws.send(message)


@pytest.fixture
def chatty(hosts: Hosts) -> Iterator[Hosts]:
    """The application is a web socket server, and speaks ``chat.v2``."""
    server = serve(chat, sock=listen(), subprotocols=[Subprotocol("chat.v2")], max_size=2**25)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.socket.getsockname()[1]
    hosts.configs["far"] = replace(hosts.configs["far"], workloads=(workload(port),))
    assert hosts.far.configure(hosts.configs["far"], revision="chat").type == "ack"
    yield hosts
    server.shutdown()


def web_socket(hosts: Hosts, **options: Any) -> ClientConnection:
    return connect("ws://app/chat", sock=hosts.connect(), max_size=2**25, **options)


def test_web_sockets_talk(chatty: Hosts) -> None:
    spoken = [Subprotocol("chat.v1"), Subprotocol("chat.v2")]
    with web_socket(chatty, subprotocols=spoken) as ws:
        assert ws.subprotocol == "chat.v2"
        ws.send("text")
        assert ws.recv() == "text"
        ws.send([b"in ", b"several ", b"fragments"])
        assert ws.recv() == b"in several fragments"
        assert ws.ping().wait(5)
        big = bytes(range(256)) * 65536
        ws.send(big)
        assert ws.recv() == big
        ws.send("close")
        with pytest.raises(ConnectionClosedError) as closed:
            ws.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")
    assert line(chatty)["response_flags"] == "-"


def test_a_web_socket_that_the_client_closes(chatty: Hosts) -> None:
    with web_socket(chatty, subprotocols=[Subprotocol("chat.v2")]) as ws:
        ws.send("x")
        assert ws.recv() == "x"
        ws.close(1001, "going away")
    assert ws.state is State.CLOSED
    assert ws.close_code == 1001
    assert line(chatty, "far")["response_flags"] == "-"
