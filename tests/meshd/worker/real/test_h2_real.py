"""HTTP/2 and HTTP/1.1 in all four combinations, through two workers over mTLS."""

from __future__ import annotations

import json
import socket

import pytest
from h2peer import Client, Message, Server
from hosts import Hosts, echo, get, read_answer
from rig import wait_for

from meshkit.http.h2 import PREFACE


def h2(conn: socket.socket) -> None:
    """An application that answers with the request it got."""
    Server(conn)()


@pytest.fixture
def app2(hosts: Hosts) -> Hosts:
    """The application speaks HTTP/2 only."""
    hosts.use(h2)
    hosts.speak("HTTP2")
    return hosts


def logged(hosts: Hosts, side: str, n: int = 1) -> list[dict[str, object]]:
    path = getattr(hosts, side).access_log
    wait_for(lambda: path.read_text().count("\n") >= n)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("protocol", ["HTTP2", "GRPC", "HTTP"])
def test_http2_to_either(hosts: Hosts, protocol: str) -> None:
    hosts.use(h2 if protocol != "HTTP" else echo)
    hosts.speak(protocol)
    with hosts.connect() as sock:
        client = Client(sock)
        answer = client.get("/a?b=1", fields=[("x-one", "1"), ("cookie", "a=1"), ("cookie", "b=2")])
        assert answer.status == 200 and answer.ended
        assert b"/a?b=1" in answer.body and b"x-one: 1" in answer.body
        assert b"cookie: a=1; b=2" in answer.body
        assert b"x-baremesh" not in answer.body, "facts are between hosts only"
        assert b"x-forwarded-client-cert: By=" in answer.body
        assert b"x-request-id: " in answer.body and b"traceparent: 00-" in answer.body
        posted = client.get("/p", body=b"x" * 100_000, fields=[("content-length", "100000")])
        assert posted.status == 200 and posted.body.endswith(b"x" * 100_000)
        head = client.get("/h", method="HEAD")
        assert head.status == 200 and not head.body
    line = logged(hosts, "near", 3)[0]
    assert line["protocol"] == "HTTP/2" and line["response_flags"] == "-"
    assert line["path"] == "/a?b=1" and line["bytes_sent"] == len(answer.body)


def test_http1_to_http2(app2: Hosts) -> None:
    head, _ = app2.request(get("/x", headers="X-Two: 2\r\nConnection: keep-alive, x-hop\r\n"))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"transfer-encoding: chunked" in head
    with app2.connect() as conn:
        conn.sendall(
            b"POST /p HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n"
        )
        received = b""
        while b"0\r\nx-sum: 6\r\n\r\n" not in received:
            received += conn.recv(65536)
    assert b"\n\nabc" in received, "trailers came back, too"


def test_the_plain_port_takes_both(app2: Hosts) -> None:
    with socket.create_connection(("127.0.0.1", app2.plain), timeout=10) as sock:
        assert Client(sock).get("/plain").status == 200


def test_a_preface_in_pieces(app2: Hosts) -> None:
    """The first bytes say HTTP/2, however they come."""
    with app2.connect() as sock:
        for byte in PREFACE:
            sock.sendall(bytes((byte,)))
        client = Client.__new__(Client)
        super(Client, client).__init__(sock, True)
        client.h2.initiate_connection()
        sock.sendall(client.h2.data_to_send()[len(PREFACE) :])
        assert client.get().status == 200


def test_a_preface_within_http1_is_refused(hosts: Hosts) -> None:
    with hosts.connect() as sock:
        sock.sendall(get() + PREFACE)
        read_answer(sock)
        assert b"505" in sock.recv(65536)


def test_streams_side_by_side(app2: Hosts) -> None:
    with app2.connect() as sock:
        client = Client(sock)
        streams = [client.ask(f"/{i}", body=bytes(1000) * i) for i in range(80)]
        answers = [client.answer(stream) for stream in streams]
    assert [a.status for a in answers] == [200] * 80
    assert [len(a.body.partition(b"\n\n")[2]) for a in answers] == [1000 * i for i in range(80)]
    assert app2.application.connections == 1, "one connection carries them all"


def test_streaming_both_ways(app2: Hosts) -> None:
    """The answer begins before the request's body has ended, and both go on."""

    class Echo(Server):
        def on_request(self, stream: int, message: Message) -> None:
            self.h2.send_headers(stream, [(":status", "200"), ("content-type", "x")])

        def on_event(self, event: object) -> None:
            super().on_event(event)  # type: ignore[arg-type]
            data = getattr(event, "data", None)
            stream = getattr(event, "stream_id", 0)
            if data and stream:
                self.send(stream, data)

        def on_end(self, stream: int, message: Message) -> None:
            self.h2.send_headers(stream, [("x-end", "1")], end_stream=True)

    app2.use(lambda conn: Echo(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        stream = client.ask("/chat", end=False)
        message = client.streams[stream]
        client.until(lambda: message.fields)
        for i in range(20):
            client.send(stream, b"%04d" % i)
            client.until(lambda i=i: len(message.body) == 4 * (i + 1))
        assert not message.ended
        client.h2.end_stream(stream)
        client.flush()
        assert client.answer(stream).trailers == [(b"x-end", b"1")]


def test_interim_answers_pass(app2: Hosts) -> None:
    class Early(Server):
        def on_end(self, stream: int, message: Message) -> None:
            hint = [(":status", "103"), ("link", "</a.css>")]
            self.h2.send_headers(stream, hint)
            self.flush()
            self.respond(stream, b"done")

    app2.use(lambda conn: Early(conn)())
    with app2.connect() as sock:
        answer = Client(sock).get()
        assert answer.body == b"done" and (b":status", b"103") in answer.interim[0]
    with app2.connect() as conn:
        conn.sendall(get())
        received = b""
        while b"done" not in received:
            received += conn.recv(65536)
        assert received.startswith(b"HTTP/1.1 103 ") and b"HTTP/1.1 200" in received


def test_a_large_body_each_way(app2: Hosts) -> None:
    body = bytes(range(256)) * 20_000
    with app2.connect() as sock:
        answer = Client(sock).get("/big", body=body)
        assert answer.body.partition(b"\n\n")[2] == body
    with app2.connect() as conn:
        conn.sendall(b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: %d\r\n\r\n" % len(body))
        conn.sendall(body)
        conn.sendall(get("/next", headers="Connection: close\r\n"))
        received = b""
        while data := conn.recv(65536):
            received += data
        assert received.count(b"HTTP/1.1 200") == 2


def test_local_answers(app2: Hosts) -> None:
    with app2.connect() as sock:
        client = Client(sock)
        missing = client.get(host="nowhere")
        assert missing.status == 404 and b"host_not_found" in missing.body
        assert client.get("/bad%00").status == 400
        assert client.get().status == 200, "the connection is kept"
        big = client.ask(fields=[(f"x-{i}", "y" * 1000) for i in range(70)])
        assert client.answer(big).status == 431
        assert client.get().status == 200, "431 costs its stream alone"
