from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from bookinfo.__main__ import build, parser
from bookinfo.client import Client
from bookinfo.details import details
from bookinfo.web import App, Identity, Reply, Request, json_reply, server


@contextmanager
def running(app: App) -> Iterator[tuple[str, int]]:
    bound = server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=bound.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield "127.0.0.1", bound.server_address[1]
    finally:
        bound.shutdown()
        thread.join()
        bound.server_close()


def echo(request: Request) -> Reply:
    return json_reply({"path": request.path, "host": request.headers.get("host", "")})


def test_many_requests_on_one_connection() -> None:
    with running(details(Identity("details", "v1", "b"))) as (address, port):
        connection = http.client.HTTPConnection(address, port, timeout=5)
        for _ in range(3):
            connection.request("GET", "/details/1")
            assert json.loads(connection.getresponse().read())["year"] == 1595
        connection.request("HEAD", "/details/1")
        head = connection.getresponse()
        assert int(head.headers["content-length"]) > 0 and head.read() == b""
        connection.close()


def test_head_and_body_arrive_in_one_segment() -> None:
    with running(echo) as where, socket.create_connection(where, timeout=5) as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b'"path": "/x"' in sock.recv(65536)


@pytest.mark.parametrize("head", [b"Content-Length: 70000", b"Transfer-Encoding: chunked"])
def test_a_body_that_nobody_sends_here_is_refused(head: bytes) -> None:
    with running(echo) as where, socket.create_connection(where, timeout=5) as sock:
        sock.sendall(b"POST /login HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n\r\n")
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 411 ")


def test_a_proxy_is_asked_in_absolute_form() -> None:
    lines: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]

        def answer() -> None:
            connection, _ = proxy.accept()
            with connection:
                lines.extend(connection.recv(65536).split(b"\r\n"))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        got = Client("http://reviews:9082", f"127.0.0.1:{port}").get("/reviews/1", {"b3": "1"})
        thread.join()
    assert (got.status, got.value) == (200, {})
    assert lines[0] == b"GET http://reviews:9082/reviews/1 HTTP/1.1"
    assert b"Host: reviews:9082" in lines and b"b3: 1" in lines


def test_a_kept_connection_that_died_is_replaced() -> None:
    with running(echo) as (address, port):
        client = Client(f"http://{address}:{port}")
        assert client.get("/a", {}).ok
        client._local.connection.sock.shutdown(socket.SHUT_RDWR)
        assert client.get("/b", {}).value["path"] == "/b"


def test_nobody_there_is_an_answer_not_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    got = Client(f"http://127.0.0.1:{port}").get("/", {})
    assert (got.status, got.ok) == (0, False)


@pytest.mark.parametrize("service", ["productpage", "details", "reviews", "ratings"])
def test_every_service_runs_and_is_healthy(service: str) -> None:
    app: Callable[[Request], Reply] = build(parser().parse_args([service, "--version", "v2"]))
    assert app(Request("GET", "/health")).status == 200
