"""One connection between two real engines, in virtual time: output, room, silence, the end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from meshd.worker.h2_connection import LINGER_SECONDS, H2Connection
from meshkit.http.fields import Field
from meshkit.http.h2 import new_engine, settings_of
from meshkit.http.limits import MESHD, Limits

OK: list[Field] = [(b":status", b"200")]
GET: list[Field] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"app"),
]


class FakeStream:
    """What a connection needs of a stream; `room` bytes fit until somebody reads."""

    def __init__(self, world: Any) -> None:
        self.loop = world.loop
        self.sent: list[bytes] = []
        self.room = 10**9
        self.bytes_in = 0
        self.readable = self.closed = self.shut = False
        self.writer: Any = None

    def try_send(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        if taken:
            self.sent.append(taken)
        return len(taken)

    async def send_rest(self, data: bytes, done: int) -> None:
        while done < len(data):
            if self.closed:
                raise ConnectionResetError("closed")
            sent = self.try_send(data[done:])
            done += sent
            if not sent:
                self.writer = self.loop.current
                await self.loop.park()

    def drain(self) -> bytes:
        """The peer reads everything; then there is room again."""
        data, self.sent = b"".join(self.sent), []
        self.room = 10**9
        if self.writer is not None:
            self.loop.unpark(self.writer)
            self.writer = None
        return data

    def shutdown_write(self) -> None:
        self.shut = True

    def close(self) -> None:
        self.closed = True


class Server(H2Connection):
    """Notes what it is told."""

    def __init__(self, world: Any, limits: Limits = MESHD) -> None:
        self.hits: list[str] = []
        ctx = SimpleNamespace(loop=world.loop, limit=self.hits.append)
        self.fake = FakeStream(world)
        super().__init__(ctx, self.fake, "server", limits)  # type: ignore[arg-type]
        self.asked: list[int] = []
        self.errors: list[OSError | None] = []
        self.engine.start()

    def request(self, stream: int, fields: object, end: bool) -> None:
        self.asked.append(stream)

    def lost(self, error: OSError | None) -> None:
        self.errors.append(error)

    def data(self, stream: int, data: bytes, end: bool) -> None: ...
    def trailers(self, stream: int, fields: object) -> None: ...
    def reset(self, stream: int, code: int, ours: bool) -> None: ...
    def closed(self, stream: int) -> None: ...


class Client:
    """The other end: an engine, and the bytes that it got on each stream."""

    def __init__(self, credit: bool = True) -> None:
        self.got: dict[int, int] = {}
        self.credit = credit
        self.engine = new_engine("client", settings_of(MESHD, "client"), self)  # type: ignore[arg-type]
        self.engine.start()

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def data(self, stream: int, data: bytes, end: bool) -> None:
        self.got[stream] = self.got.get(stream, 0) + len(data)
        if self.credit:
            self.engine.taken(stream, len(data))

    def exchange(self, server: Server) -> None:
        """Bytes both ways, once."""
        while data := self.engine.output():
            server.fake.bytes_in += len(data)
            server.engine.receive(data, 0.0)
        server.touch()
        server.loop.turn()
        self.engine.receive(server.fake.drain(), 0.0)


def opened(world: Any, streams: int = 1, **limits: int) -> tuple[Server, Client]:
    """A connection on which so many requests have come."""
    server = Server(world, replace(MESHD, **limits))  # type: ignore[arg-type]
    client = Client()
    client.exchange(server)
    for _ in range(streams):
        client.engine.request(GET, True)
    client.exchange(server)
    assert len(server.asked) == streams
    return server, client


def test_what_many_fibers_send_leaves_in_one_piece(world: Any) -> None:
    server, client = opened(world, 16)

    async def answer(stream: int) -> None:
        server.engine.respond(stream, OK, False)
        server.engine.send(stream, b"x" * 1000, True)
        server.touch()

    for stream in server.asked:
        world.loop.spawn(answer(stream))
    world.loop.turn()
    assert len(server.fake.sent) == 1, "one send for sixteen answers"
    client.engine.receive(server.fake.drain(), 0.0)
    assert client.got == dict.fromkeys(server.asked, 1000)


def test_a_full_socket_is_waited_for_by_one_fiber(world: Any) -> None:
    server, client = opened(world)
    server.fake.room = 100
    server.engine.respond(1, OK, False)
    server.engine.send(1, b"x" * 50_000, True)
    server.touch()
    world.loop.turn()
    world.loop.turn()
    assert sum(map(len, server.fake.sent)) == 100
    assert len(world.loop.fibers) == 1, "the writer"
    server.touch()
    world.loop.turn()
    assert sum(map(len, server.fake.sent)) == 100, "nothing overtakes it"
    client.engine.receive(server.fake.drain(), 0.0)
    world.loop.turn()
    client.engine.receive(server.fake.drain(), 0.0)
    assert client.got == {1: 50_000} and not world.loop.fibers


def test_a_sender_waits_until_half_of_its_queue_has_gone(world: Any) -> None:
    server, client = opened(world, buffer_bytes=40_000)
    client.credit = False
    passed: list[int] = []

    async def send() -> None:
        server.engine.respond(1, OK, False)
        for i in range(12):
            server.engine.send(1, bytes(16_384), False)
            server.touch()
            await server.room(1)
            passed.append(i)

    world.loop.spawn(send())
    for _ in range(5):
        client.exchange(server)
    held = server.engine.queued(1)
    assert 20_000 < held <= 40_000 + 16_384, "more than the mark by one piece at most"
    assert len(passed) < 12 and 1 in server.stalled
    client.engine.taken(1, client.got[1])
    for _ in range(3):
        client.exchange(server)
    assert server.engine.queued(1) <= 40_000 + 16_384
    client.credit = True
    client.engine.taken(1, client.got[1] - 65_536)
    for _ in range(8):
        client.exchange(server)
    assert len(passed) == 12 and not server.stalled


def test_stalled_streams_leave_the_others_alone(world: Any) -> None:
    server, client = opened(world, 51, http2_streams=100)
    stalled, last = server.asked[:50], server.asked[50]

    async def fill(stream: int) -> None:
        server.engine.respond(stream, OK, False)
        while True:
            server.engine.send(stream, bytes(16_384), False)
            server.touch()
            await server.room(stream)

    client.credit = False
    for stream in stalled:
        world.loop.spawn(fill(stream))
    for _ in range(12):
        client.exchange(server)
    assert len(server.stalled) == 50
    assert sum(map(server.engine.queued, stalled)) <= 50 * (65_536 + 16_384)
    server.engine.respond(last, OK, False)
    server.engine.send(last, bytes(60_000), True)
    client.exchange(server)
    assert client.got[last] == 60_000


def test_a_lost_connection_wakes_who_waits(world: Any) -> None:
    server, client = opened(world, buffer_bytes=1000)
    client.credit = False
    errors: list[OSError] = []

    async def send() -> None:
        server.engine.respond(1, OK, False)
        try:
            while True:
                server.engine.send(1, bytes(16_384), False)
                server.touch()
                await server.room(1)
        except OSError as error:
            errors.append(error)

    world.loop.spawn(send())
    for _ in range(6):
        client.exchange(server)
    gone = ConnectionResetError("gone")
    server.lose(gone)
    server.lose(None)
    world.loop.turn()
    assert len(errors) == 1 and server.errors == [gone] and server.fake.closed


def test_a_silent_peer_is_asked_and_then_given_up(world: Any) -> None:
    server, _ = opened(world, http2_ping_after=15, http2_ping_wait=10)
    start = world.loop.now
    assert server.is_alive(start) and server.is_alive(start + 14)
    assert not server.fake.sent
    assert server.is_alive(start + 15)
    server.flush()
    assert b"\x00\x00\x08\x06\x00" in b"".join(server.fake.sent), "a PING"
    assert server.is_alive(start + 24)
    assert not server.is_alive(start + 25)


def test_an_answer_to_the_ping_is_enough(world: Any) -> None:
    server, client = opened(world, http2_ping_after=15, http2_ping_wait=10)
    start = world.loop.now
    for seconds in (0, 15):
        assert server.is_alive(start + seconds)
    client.exchange(server)
    client.exchange(server)
    assert server.is_alive(start + 26) and server.is_alive(start + 40)


def test_without_streams_nobody_is_asked(world: Any) -> None:
    server, _ = opened(world, 0, http2_ping_after=1, http2_ping_wait=1)
    assert all(server.is_alive(world.loop.now + n) for n in range(100))


def test_the_end_comes_after_the_last_stream(world: Any) -> None:
    server, client = opened(world)
    server.retire()
    client.exchange(server)
    assert not server.fake.shut and client.engine.closing
    server.engine.respond(1, OK, True)
    server.touch()
    client.exchange(server)
    assert server.fake.shut and not server.fake.closed, "our side has ended, the peer may read"
    world.finish(world.loop.spawn(world.loop.sleep(LINGER_SECONDS + 1)))
    assert server.fake.closed and server.errors == [None]


def test_a_failing_socket_loses_the_connection(world: Any, monkeypatch: Any) -> None:
    server, _ = opened(world)
    error = ConnectionResetError("reset")

    def broken(data: bytes) -> int:
        raise error

    monkeypatch.setattr(server.fake, "try_send", broken)
    server.engine.respond(1, OK, True)
    server.touch()
    world.loop.turn()
    assert server.errors == [error] and server.over


@pytest.fixture(autouse=True)
def _no_errors(world: Any) -> Generator[None, None, None]:
    yield
    assert not world.errors
