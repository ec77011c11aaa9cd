"""TCP as databases speak it: Redis, a greeting server, half-closes; then TLS by its name."""

from __future__ import annotations

import hashlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from threading import Thread

import pytest

from tests.parts.find import program
from tests.peers.mesh import PeerMesh, Service
from tests.peers.patience import until
from tests.peers.programs import run
from tests.peers.tcp_apps import TCPApplication, free_port

MIB = 1 << 20
WAYS = ("mesh", "edge")
PATIENCE = 30.0


def port_of(service: Service, way: str) -> int:
    return service.local if way == "mesh" else service.edge_port


def opened(service: Service, way: str = "mesh") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(service, way)), timeout=PATIENCE)


def everything(conn: socket.socket) -> bytes:
    """All until the end."""
    return b"".join(iter(lambda: conn.recv(65536), b""))


@pytest.fixture(scope="module")
def redis(mesh: PeerMesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    path, port = program("redis-server"), free_port()
    assert path is not None, "no redis-server: run 'python3 tests/parts/install.py'"
    folder = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([path, *options], stdout=subprocess.DEVNULL) as process:
        ping = lambda: run("redis-cli", "-p", str(port), "ping").out == b"PONG\n"  # noqa: E731
        until(ping, "redis answers")
        yield mesh.add("redis", "REDIS", port)
        process.terminate()


def redis_cli(service: Service, way: str, *arguments: str, data: bytes = b"") -> bytes:
    said = run("redis-cli", "-p", str(port_of(service, way)), *arguments, data=data)
    assert said.status == 0, said
    return said.out


@pytest.mark.parametrize("way", WAYS)
def test_redis_commands_and_large_values(redis: Service, way: str) -> None:
    assert redis_cli(redis, way, "set", "key", "value") == b"OK\n"
    assert redis_cli(redis, way, "get", "key") == b"value\n"
    large = b"v" * (4 * MIB)
    assert redis_cli(redis, way, "-x", "set", "large", data=large) == b"OK\n"
    assert redis_cli(redis, way, "get", "large") == large + b"\n"


def test_redis_pipelines_and_publishes(redis: Service) -> None:
    commands = b"".join(b"set k%d %d\r\n" % (i, i) for i in range(5000))
    said = redis_cli(redis, "mesh", "--pipe", data=commands)
    assert b"errors: 0, replies: 5000" in said
    with opened(redis) as listener:
        listener.sendall(b"subscribe news\r\n")
        assert listener.recv(100).startswith(b"*3\r\n$9\r\nsubscribe")
        assert redis_cli(redis, "mesh", "publish", "news", "hello") == b"1\n"
        assert listener.recv(100).endswith(b"$5\r\nhello\r\n")


def test_redis_under_load_of_many_connections(redis: Service) -> None:
    options = ("-n", "5000", "-c", "50", "-t", "ping,set", "--csv")
    said = run("redis-benchmark", "-p", str(redis.local), *options)
    assert said.status == 0 and said.out.count(b"\n") >= 3, said
    assert b"rror" not in said.out + said.err, said


@pytest.fixture
def serve(mesh: PeerMesh) -> Iterator[Callable[[Callable[[socket.socket], None]], Service]]:
    """A TCP application of a handler, declared as a service."""
    started: list[TCPApplication] = []

    def one(handler: Callable[[socket.socket], None]) -> Service:
        application = TCPApplication(handler)
        started.append(application)
        return mesh.add(f"tcp-{len(mesh.services)}", "TCP", application.port)

    yield one
    for application in started:
        application.close()


Serve = Callable[[Callable[[socket.socket], None]], Service]
GREETING = b"J\0\0\0\x0a8.0.36\0\x08\0\0\0salt-of-8\0\xff\xf7"
"""How a MySQL server begins: it speaks first."""


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_speaks_first_is_heard_at_once(serve: Serve, way: str) -> None:
    def mysql(conn: socket.socket) -> None:
        conn.sendall(GREETING)
        login = conn.recv(1000)
        conn.sendall(b"OK " + login)

    with opened(serve(mysql), way) as conn:
        conn.settimeout(5)  # sniffing would wait for 10 s
        assert conn.recv(1000) == GREETING
        conn.sendall(b"login")
        assert everything(conn) == b"OK login"


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_half_closes_gets_the_answer(serve: Serve, way: str) -> None:
    """As `nc -N` does: the end of what is said is the question."""

    def digest(conn: socket.socket) -> None:
        conn.sendall(hashlib.sha256(everything(conn)).hexdigest().encode())

    body = bytes(range(256)) * (5 * MIB // 256)
    with opened(serve(digest), way) as conn:
        conn.sendall(body)
        conn.shutdown(socket.SHUT_WR)
        assert everything(conn).decode() == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_half_closes_still_hears_the_client(serve: Serve, way: str) -> None:
    heard: list[bytes] = []

    def talk_then_listen(conn: socket.socket) -> None:
        conn.sendall(b"that is all")
        conn.shutdown(socket.SHUT_WR)
        heard.append(everything(conn))

    with opened(serve(talk_then_listen), way) as conn:
        assert everything(conn) == b"that is all"
        conn.sendall(b"and this came after")
        conn.shutdown(socket.SHUT_WR)
        until(lambda: heard == [b"and this came after"], "the server heard the rest")


def test_a_reset_by_the_client_ends_the_servers_side(serve: Serve) -> None:
    ended: list[str] = []

    def wait(conn: socket.socket) -> None:
        conn.sendall(b"hello")
        try:
            while conn.recv(1000):
                pass
            ended.append("end")
        except OSError:
            ended.append("reset")

    conn = opened(serve(wait))
    assert conn.recv(100) == b"hello"
    linger_off = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_off)
    conn.close()
    until(lambda: ended, "the server's side ended")


def test_both_directions_at_once_arrive_whole(serve: Serve) -> None:
    """20 MB each way, read slowly enough for every buffer to fill."""

    def echo(conn: socket.socket) -> None:
        for data in iter(lambda: conn.recv(65536), b""):
            conn.sendall(data)

    body = bytes(range(256)) * (20 * MIB // 256)
    with opened(serve(echo)) as conn:
        sender = Thread(target=lambda: (conn.sendall(body), conn.shutdown(socket.SHUT_WR)))
        sender.start()
        assert hashlib.sha256(everything(conn)).digest() == hashlib.sha256(body).digest()
        sender.join()


def test_a_service_that_is_away_closes_the_connection_and_says_so(mesh: PeerMesh) -> None:
    service = mesh.add("tcp-away", "TCP", free_port())
    with opened(service) as conn:
        try:
            assert conn.recv(100) == b""
        except ConnectionResetError:
            pass
    line = lambda: [e for e in mesh.entries("far") if e["response_flags"] == "UF"]  # noqa: E731
    until(line, "the application's host says UF")


@pytest.mark.parametrize("side", ["near", "far"])
def test_connections_and_bytes_are_counted_and_logged(
    mesh: PeerMesh, serve: Serve, side: str
) -> None:
    def answer(conn: socket.socket) -> None:
        conn.recv(1000)
        conn.sendall(b"y" * 2000)

    service = serve(answer)
    with opened(service) as conn:
        conn.sendall(b"x" * 1000)
        assert len(everything(conn)) == 2000

    def counted(name: str) -> int:
        return mesh.count(side, f"istio_tcp_{name}_total", destination_service=service.host)

    until(lambda: counted("connections_closed") == 1, "the end is counted")
    assert counted("connections_opened") == 1
    assert (counted("received_bytes"), counted("sent_bytes")) == (1000, 2000)
    upstream = f"127.0.0.1:{service.target if side == 'far' else mesh.mesh_port}"

    def lines() -> list[tuple[object, object]]:
        of_ours = [e for e in mesh.entries(side) if e["upstream_host"] == upstream]
        return [(e["bytes_received"], e["bytes_sent"]) for e in of_ours]

    until(lambda: (1000, 2000) in lines(), "and logged")


def test_many_short_connections_leave_nothing(mesh: PeerMesh, serve: Serve) -> None:
    def one_line(conn: socket.socket) -> None:
        conn.sendall(conn.recv(100))

    service = serve(one_line)
    before = {side: mesh.alive(side)["fibers"] for side in ("near", "far")}
    for i in range(300):
        with opened(service) as conn:
            conn.sendall(b"line %d" % i)
            assert everything(conn) == b"line %d" % i
    for side, fibers in before.items():
        until(lambda: mesh.alive(side)["fibers"] <= fibers, f"{side} is as before")  # noqa: B023
