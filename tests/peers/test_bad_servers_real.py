"""HTTP/2 applications that go away, reset, pad and stall: nobody hangs, nothing is made up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.parts.find import program
from tests.peers.bad_h2 import GRPC, BadServer, Wire
from tests.peers.grpc_client import PATIENCE, Target, channel
from tests.peers.memory import resident
from tests.peers.mesh import PeerMesh, Service
from tests.peers.patience import until
from tests.peers.programs import Said, h2load, run

INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 2, 7, 8
VERSIONS = {"h1": "--http1.1", "h2": "--http2-prior-knowledge"}
PARTIAL = (18, 52, 56, 92)
"""curl: fewer bytes than promised, none at all, cut while receiving, stream not closed cleanly."""
MIB = 1 << 20

Start = Callable[..., tuple[BadServer, Service]]


@pytest.fixture
def start(mesh: PeerMesh, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start a server of a behaviour, and declare it as a service."""
    started: list[BadServer] = []

    def one(
        behaviour: Callable[[Wire, int, int], None], protocol: str = "HTTP2", *, credit: bool = True
    ) -> tuple[BadServer, Service]:
        server = BadServer(behaviour, credit=credit)
        started.append(server)
        return server, mesh.add(f"bad-{len(mesh.services)}", protocol, server.port)

    yield one
    for server in started:
        server.close()


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Said]:
    """curl over HTTP/1.1 and over HTTP/2: output is the status and the body."""

    def get(service: Service, *arguments: str) -> Said:
        url = f"http://127.0.0.1:{service.local}/"
        options = ("-sS", "--max-time", "60", "-w", "%{stderr}%{http_code}", *arguments)
        return run("curl", VERSIONS[str(request.param)], *options, url)

    return get


def good(said: Said, body: bytes = b"fine") -> bool:
    return (said.status, said.out, said.err) == (0, body, b"200")


def test_goaway_midway_lets_the_answer_finish_and_the_next_go_elsewhere(
    start: Start, client: Callable[..., Said]
) -> None:
    def leave(wire: Wire, stream: int, number: int) -> None:
        wire.head(stream)
        wire.goaway(stream)
        for _ in range(10):
            wire.data(stream, b"x" * 1000)
        wire.data(stream, b"", end=True)

    server, service = start(leave)
    for count in (1, 2, 3):
        assert good(client(service), b"x" * 10_000)
        assert (server.requests, server.connections) == (count, count)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_streams_that_goaway_leaves_out_are_sent_again(
    start: Start, tmp_path: Path, method: str
) -> None:
    """The peer says that it did nothing: even a POST is repeated, and none fails."""
    held: list[int] = []

    def half(wire: Wire, stream: int, number: int) -> None:
        if wire.server.connections > 1:
            wire.answer(stream)
            return
        held.append(stream)
        if len(held) == 6:
            wire.goaway(held[2])
            for one in held[:3]:
                wire.answer(one)

    server, service = start(half)
    (tmp_path / "body").write_bytes(b"a body")
    body = ("-d", str(tmp_path / "body")) if method == "POST" else ()
    url = f"http://127.0.0.1:{service.local}/"
    total = h2load("-n", "6", "-c", "1", "-m", "6", *body, url)
    assert total["succeeded"] == 6, total
    assert server.requests == 9


def test_a_refused_stream_is_sent_again(start: Start, client: Callable[..., Said]) -> None:
    def refuse_first(wire: Wire, stream: int, number: int) -> None:
        if number == 1:
            wire.reset(stream, REFUSED_STREAM)
        else:
            wire.answer(stream)

    server, service = start(refuse_first)
    assert good(client(service, "-d", "a body"))
    assert server.requests == 2


def test_a_reset_instead_of_an_answer_is_one_error(
    mesh: PeerMesh, start: Start, client: Callable[..., Said]
) -> None:
    server, service = start(lambda wire, stream, _: wire.reset(stream, INTERNAL_ERROR))
    said = client(service, "-d", "a body")
    assert said.status == 0 and said.err in (b"502", b"503"), said
    assert server.requests == 1, "a POST is not repeated"
    logged(mesh, service, "U")


def test_a_reset_after_the_head_is_no_whole_answer(
    mesh: PeerMesh, start: Start, client: Callable[..., Said]
) -> None:
    def cut(wire: Wire, stream: int, number: int) -> None:
        wire.head(stream)
        wire.reset(stream, INTERNAL_ERROR)

    _, service = start(cut)
    said = client(service)
    assert said.status in PARTIAL or said.err in (b"502", b"503"), said
    logged(mesh, service, "U")


def test_a_reset_after_data_is_no_whole_answer(
    mesh: PeerMesh, start: Start, client: Callable[..., Said]
) -> None:
    def cut(wire: Wire, stream: int, number: int) -> None:
        wire.head(stream)
        wire.data(stream, b"x" * 1000)
        wire.reset(stream, INTERNAL_ERROR)

    server, service = start(cut)
    said = client(service)
    assert said.status in PARTIAL, said
    assert server.requests == 1
    logged(mesh, service, "U")


def logged(mesh: PeerMesh, service: Service, flags: str) -> None:
    """The access log on the application's host has such a response flag for it."""
    application = f"127.0.0.1:{service.target}"

    def found() -> bool:
        lines = [entry for entry in mesh.entries("far") if entry["upstream_host"] == application]
        return any(str(line["response_flags"]).startswith(flags) for line in lines)

    until(found, f"a line of {application} with a flag {flags}…")


def test_padding_is_dropped_and_its_credit_given_back(
    start: Start, client: Callable[..., Said]
) -> None:
    """600 frames of one byte and 255 of padding are more than twice the window."""

    def pad(wire: Wire, stream: int, number: int) -> None:
        wire.head(stream)
        send_padded(wire, stream, 600)

    _, service = start(pad)
    assert good(client(service), b"x" * 600)


def send_padded(wire: Wire, stream: int, frames: int) -> None:
    """As much as the window takes; the rest when it has grown."""
    for left in range(frames, 0, -1):
        while wire.h2.local_flow_control_window(stream) < 257:
            for event in wire.h2.receive_data(wire.sock.recv(65536)):
                wire._handle(event)
            wire.flush()
        wire.data(stream, b"x", end=left == 1, padding=255)


def test_a_server_that_stops_reading_holds_its_own_stream_only(
    mesh: PeerMesh, start: Start
) -> None:
    """What is offered to a stalled stream stays with the client; its neighbours go on."""

    def stall(wire: Wire, stream: int, number: int) -> None:
        if number > 1:
            wire.answer(stream)

    server, service = start(stall, credit=False)
    before = [resident(one.process.pid) for one in (mesh.near, mesh.far)]
    curl = program("curl")
    assert curl is not None
    url = f"http://127.0.0.1:{service.local}/"
    command = [curl, "-sS", "--http2-prior-knowledge", "-T", "-", "-X", "POST", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as stalled:
        assert stalled.stdin is not None
        feed(stalled, lambda: server.received > 60_000)
        total = h2load("-n", "200", "-c", "1", "-m", "1", url)
        assert total["succeeded"] == 200, total
        after = [resident(one.process.pid) for one in (mesh.near, mesh.far)]
        stalled.kill()
    assert all(b - a < 4 * MIB for a, b in zip(before, after, strict=True)), (before, after)
    until(lambda: CANCEL in server.resets, "the server hears that it is over")


def feed(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Write until the pipe is full, and wait until the other end has had its share."""
    assert process.stdin is not None
    pipe = process.stdin.fileno()
    os.set_blocking(pipe, False)

    def more() -> bool:
        try:
            os.write(pipe, b"x" * 65536)
        except BlockingIOError:
            return ready()
        return False

    until(more, "the stalled stream is full")


# The same as gRPC sees it


def call(service: Service) -> grpc.RpcError | bytes:
    with channel(Target(f"127.0.0.1:{service.local}")) as opened:
        try:
            return bytes(opened.unary_unary("/peers.Bad/Call")(b"", timeout=PATIENCE))
        except grpc.RpcError as error:
            return error


def test_grpc_reset_after_the_head(start: Start) -> None:
    def cut(wire: Wire, stream: int, number: int) -> None:
        wire.head(stream, GRPC)
        wire.reset(stream, INTERNAL_ERROR)

    _, service = start(cut, "GRPC")
    error = call(service)
    assert isinstance(error, grpc.RpcError)
    assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE), error


def test_grpc_reset_after_data(start: Start) -> None:
    def cut(wire: Wire, stream: int, number: int) -> None:
        wire.head(stream, GRPC)
        wire.data(stream, b"\0\0\0\0\5hello")
        wire.reset(stream, INTERNAL_ERROR)

    _, service = start(cut, "GRPC")
    error = call(service)
    assert isinstance(error, grpc.RpcError), "a message without a status is no success"
    assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE), error


def test_grpc_goaway_midway(start: Start) -> None:
    def leave(wire: Wire, stream: int, number: int) -> None:
        wire.head(stream, GRPC)
        wire.goaway(stream)
        wire.data(stream, b"\0\0\0\0\5hello", padding=99)
        wire.trailers(stream, [("grpc-status", "0")])

    server, service = start(leave, "GRPC")
    assert call(service) == call(service) == b"hello"
    assert server.connections == 2


def test_grpc_http_error_without_a_status(start: Start) -> None:
    """An application's plain 503: the gRPC library maps it, the mesh does not invent."""
    _, service = start(
        lambda wire, stream, _: wire.head(stream, [(":status", "503")], end=True), "GRPC"
    )
    error = call(service)
    assert isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
