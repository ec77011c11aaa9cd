"""The pump in virtual time: two scripted sockets, what one sends the other gets."""

from __future__ import annotations

import errno
import select
import socket
import ssl
from typing import Any

import pytest

from meshd.worker import pump
from meshd.worker.loop import Cancelled
from meshd.worker.pump import BUFFER, Pump
from meshd.worker.stream import Stream

IN, OUT, HUP, RDHUP, ERR = (
    select.EPOLLIN,
    select.EPOLLOUT,
    select.EPOLLHUP,
    select.EPOLLRDHUP,
    select.EPOLLERR,
)
RESET = ConnectionResetError(errno.ECONNRESET, "reset by peer")
END = b""


class FakeSocket:
    """Gives out `incoming`, then EAGAIN; takes `room` bytes, then EAGAIN."""

    family = socket.AF_INET

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.incoming: list[bytes | OSError] = []
        self.taken = b""
        self.room = 10**9
        self.refuses: OSError | None = None
        self.error = 0
        self.done: list[str] = []
        self.reads = 0

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def recv(self, n: int) -> bytes:
        raise AssertionError("the pump reads into its own buffer")

    def recv_into(self, view: memoryview) -> int:
        self.reads += 1
        if not self.incoming:
            raise BlockingIOError
        piece = self.incoming[0]
        if isinstance(piece, OSError):
            raise piece
        size = 0
        while size < len(view) and self.incoming and isinstance(self.incoming[0], bytes):
            piece = self.incoming[0][: len(view) - size]
            if not piece:
                break  # the end stays
            view[size : size + len(piece)] = piece
            size += len(piece)
            self.incoming[0] = self.incoming[0][len(piece) :]
            if not self.incoming[0]:
                self.incoming.pop(0)
        return size

    def send(self, data: Any) -> int:
        if self.refuses is not None:
            raise self.refuses
        size = min(len(data), self.room)
        if not size:
            raise BlockingIOError
        self.room -= size
        self.taken += bytes(data[:size])
        return size

    def getsockopt(self, _level: int, option: int) -> int:
        assert option == socket.SO_ERROR
        return self.error

    def setsockopt(self, *_args: Any) -> None:
        self.done.append("reset")

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        self.done.append(f"fin after {len(self.taken)}")

    def close(self) -> None:
        self.done.append("close")


class Rig:
    """A pump between two fake sockets, 7 (down) and 8 (up)."""

    def __init__(self, world: Any, **options: Any) -> None:
        self.world = world
        self.down, self.up = FakeSocket(7), FakeSocket(8)
        streams = Stream(world.loop, self.down), Stream(world.loop, self.up)
        self.streams = streams
        self.pump: Pump

        async def body() -> None:
            self.pump = Pump(world.loop, *streams, **options)
            await self.pump.run()

        self.fiber = world.start(body())

    def feed(self, sock: FakeSocket, *pieces: bytes | OSError, mask: int = IN) -> None:
        """The peer of `sock` sends."""
        sock.incoming += pieces
        self.world.feed((sock.fd, mask))
        self.world.loop.turn()

    def drain(self, sock: FakeSocket, room: int) -> None:
        """The peer of `sock` reads so many bytes."""
        sock.room += room
        self.world.feed((sock.fd, OUT))
        self.world.loop.turn()


@pytest.fixture
def rig(world: Any) -> Rig:
    return Rig(world)


def test_bytes_go_both_ways_and_half_close_is_kept(rig: Rig) -> None:
    rig.feed(rig.down, b"request")
    assert rig.up.taken == b"request"
    rig.feed(rig.down, END, mask=IN | RDHUP)
    assert rig.up.done == ["fin after 7"] and not rig.fiber.done
    rig.feed(rig.up, b"the long ", b"answer")
    assert rig.down.taken == b"the long answer" and not rig.fiber.done
    rig.feed(rig.up, END, mask=IN | RDHUP)
    rig.world.finish(rig.fiber)
    assert (rig.pump.flags, rig.pump.sent, rig.pump.received) == ("-", 7, 15)
    assert rig.down.done == ["fin after 15", "close"]
    assert rig.up.done == ["fin after 7", "close"]


def test_a_server_may_speak_first(rig: Rig) -> None:
    rig.feed(rig.up, b"220 ready")
    assert rig.down.taken == b"220 ready"


def test_bytes_read_before_go_first(world: Any) -> None:
    rig = Rig(world, first_up=b"early ", first_down=b"101 ")
    rig.feed(rig.down, b"late")
    rig.feed(rig.up, b"frames")
    assert rig.up.taken == b"early late" and rig.down.taken == b"101 frames"
    assert (rig.pump.sent, rig.pump.received) == (10, 10)


def test_while_the_sink_is_full_nothing_is_read(rig: Rig) -> None:
    rig.up.room = 10
    rig.feed(rig.down, b"x" * BUFFER, b"y" * BUFFER)
    reads = rig.down.reads
    for _ in range(5):
        rig.feed(rig.down, b"z")
    assert rig.down.reads == reads
    rig.drain(rig.up, 10)
    assert rig.down.reads == reads
    rig.drain(rig.up, 10 * BUFFER)
    while rig.down.incoming:
        rig.world.loop.turn()
    assert rig.up.taken == b"x" * BUFFER + b"y" * BUFFER + b"zzzzz"


def test_a_full_sink_does_not_stop_the_other_way(rig: Rig) -> None:
    rig.up.room = 0
    rig.feed(rig.down, b"stuck")
    rig.feed(rig.up, b"flows")
    assert rig.down.taken == b"flows"


def test_what_is_held_goes_before_the_end(rig: Rig) -> None:
    rig.up.room = 0
    rig.feed(rig.down, b"last words", END, mask=IN | RDHUP)
    assert not rig.up.done
    rig.drain(rig.up, 100)
    assert rig.up.taken == b"last words" and rig.up.done == ["fin after 10"]


@pytest.mark.parametrize("side", ["down", "up"])
def test_a_reset_is_passed_on_as_one(rig: Rig, side: str) -> None:
    sock = getattr(rig, side)
    rig.feed(sock, b"some", RESET, mask=IN | ERR | HUP)
    rig.world.finish(rig.fiber)
    assert rig.pump.flags == ("DC" if side == "down" else "UC")
    assert "reset" in rig.pump.why
    assert rig.down.done == rig.up.done == ["reset", "close"]


def test_a_failed_sink_may_have_the_last_word(rig: Rig) -> None:
    rig.up.refuses = BrokenPipeError(errno.EPIPE, "broken pipe")
    rig.up.incoming = [b"ERROR 1040: too many", b" connections", END]
    rig.feed(rig.down, b"more of it")
    rig.world.feed((8, IN | RDHUP | ERR | HUP))
    rig.world.finish(rig.fiber)
    assert rig.down.taken == b"ERROR 1040: too many connections"
    assert rig.pump.flags == "UC" and rig.pump.why == "[Errno 32] broken pipe"
    assert "reset" in rig.down.done


@pytest.mark.parametrize("ended", [True, False])
def test_a_reset_is_noticed_while_nobody_reads(rig: Rig, ended: bool) -> None:
    """Down has ended its side, or waits for a full sink; then it resets."""
    if ended:
        rig.feed(rig.down, END, mask=IN | RDHUP)
    else:
        rig.up.room = 0
        rig.feed(rig.down, b"stuck")
    rig.down.error = errno.ECONNRESET
    rig.world.feed((7, ERR | HUP | IN))
    rig.world.finish(rig.fiber)
    assert rig.pump.flags == "DC" and rig.up.done[-2:] == ["reset", "close"]


def test_the_idle_limit(world: Any) -> None:
    rig = Rig(world, idle=80.0)
    world.finish(rig.fiber)
    assert 80 <= world.elapsed <= 90
    assert rig.pump.flags == "SI" and rig.pump.why == "nothing moved for 80 s"
    assert "reset" in rig.down.done and "reset" in rig.up.done


@pytest.mark.parametrize("side", ["down", "up"])
def test_a_byte_either_way_postpones_the_idle_limit(world: Any, side: str) -> None:
    rig = Rig(world, idle=80.0)
    sock = getattr(rig, side)

    def byte() -> None:
        sock.incoming.append(b"x")
        world.feed((sock.fd, IN))

    world.later(79.0, byte)
    world.finish(rig.fiber)
    assert 159 <= world.elapsed <= 179


def test_no_limit_no_timer(world: Any) -> None:
    rig = Rig(world)
    assert not rig.fiber.expires


def test_stop_ends_it(rig: Rig) -> None:
    rig.pump.stop("DPE", "policy changed")
    rig.world.finish(rig.fiber)
    assert (rig.pump.flags, rig.pump.why) == ("DPE", "policy changed")
    rig.pump.stop("UC", "too late")
    assert rig.pump.flags == "DPE"


def test_closing_a_stream_ends_it(rig: Rig) -> None:
    """Roots changed, and the peer's certificate is not covered any more."""
    rig.streams[1].close()
    rig.world.finish(rig.fiber)
    assert rig.pump.flags == "UC" and "closed" in rig.pump.why


def test_cancelled_it_resets_both_and_keeps_no_buffer(rig: Rig) -> None:
    rig.up.room = 0
    rig.feed(rig.down, b"stuck")
    spare = len(pump._spare)
    rig.fiber.cancel()
    with pytest.raises(Cancelled):
        rig.world.finish(rig.fiber)
    assert "reset" in rig.down.done and "reset" in rig.up.done
    assert len(pump._spare) == min(pump.SPARE, spare + 1)


def test_a_long_transfer_gives_up_its_turn(rig: Rig) -> None:
    rig.down.incoming = [b"x" * BUFFER] * 40
    rig.world.feed((7, IN))
    rig.world.loop.turn()
    assert 0 < len(rig.up.taken) <= pump.BURST + BUFFER
    turns = 1
    while rig.down.incoming:
        rig.world.loop.turn()
        turns += 1
    assert len(rig.up.taken) == 40 * BUFFER and turns >= 10


def test_an_edge_while_it_runs_is_not_lost(rig: Rig) -> None:
    """Nothing can come between a failed attempt and the wait."""
    for number in range(20):
        rig.feed(rig.down, b"%d," % number)
        rig.feed(rig.up, b"%d;" % number)
    assert rig.up.taken == b"".join(b"%d," % n for n in range(20))
    assert rig.down.taken == b"".join(b"%d;" % n for n in range(20))


class FakeTLS:
    """OpenSSL as a sink: takes a buffer at the second attempt, if it is the same."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def write(self, data: Any) -> int:
        self.seen.append(data)
        if len(self.seen) == 1:
            raise ssl.SSLWantWriteError
        return len(data)


def test_openssl_gets_the_same_object_again(rig: Rig) -> None:
    tls = FakeTLS()
    rig.streams[1]._send = tls.write
    rig.feed(rig.down, b"x" * 1000)
    rig.feed(rig.down, b"y")
    assert len(tls.seen) == 1
    rig.drain(rig.up, 0)
    assert tls.seen[0] is tls.seen[1] and len(tls.seen) == 3
