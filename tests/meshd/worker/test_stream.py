"""Sticky bits, fairness and pending output, against scripted sockets in virtual time.

A script is what the kernel (or OpenSSL) answers, call by call. A call beyond it fails the test:
no attempt is made that the rules do not ask for.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from typing import Any

import pytest

from meshd.worker.loop import Cancelled, DeadlineExceeded
from meshd.worker.stream import Stream, StreamClosed, start_tls

IN, OUT, HUP, RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLRDHUP
PRI = select.EPOLLPRI
AGAIN = BlockingIOError(errno.EAGAIN, "again")
WANT_READ = ssl.SSLWantReadError()
WANT_WRITE = ssl.SSLWantWriteError()


class Script:
    """Answers to one kind of call: bytes or int to return, an exception to raise."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[Any] = []

    def __call__(self, argument: Any) -> Any:
        self.calls.append(argument)
        assert self.answers, "a call that the script does not have"
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class FakeSocket:
    family = socket.AF_INET

    def __init__(self, fd: int = 7, recv: Any = (), send: Any = ()) -> None:
        self.fd = fd
        self.recv = Script(*recv)
        self.send = Script(*send)
        self.done: list[str] = []

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def setsockopt(self, *_args: Any) -> None:
        self.done.append("linger 0")

    def shutdown(self, how: int) -> None:
        self.done.append(f"shutdown {how}")

    def close(self) -> None:
        self.done.append("close")


class FakeTLS:
    """What stands in for _ssl._SSLSocket."""

    def __init__(self, read: Any = (), write: Any = (), handshake: Any = (None,)) -> None:
        self.read = Script(*read)
        self.write = Script(*write)
        self._handshake = Script(*handshake)
        self.goodbyes = 0

    def do_handshake(self) -> None:
        self._handshake(None)

    def pending(self) -> int:
        return 0

    def shutdown(self) -> None:
        self.goodbyes += 1
        raise WANT_READ


class FakeContext:
    def __init__(self, tls: FakeTLS) -> None:
        self.tls = tls

    def wrap_socket(self, sock: FakeSocket, **_options: Any) -> FakeSocket:
        sock._sslobj = self.tls
        return sock


def _stream(world, fd: int = 7, recv: Any = (), send: Any = ()) -> Stream:
    return Stream(world.loop, FakeSocket(fd, recv, send))


def _tls(world, tls: FakeTLS) -> Stream:
    sock = FakeSocket()
    sock.family = socket.AF_UNIX  # the FIONREAD shortcut needs a real socket
    stream = Stream(world.loop, sock)
    world.finish(
        world.loop.spawn(start_tls(stream, FakeContext(tls), server_side=True))  # type: ignore
    )
    return stream


# The bits


def test_a_read_that_finds_data_does_not_suspend(world):
    stream = _stream(world, recv=[b"hello"])
    coro = stream.recv()
    with pytest.raises(StopIteration) as stop:
        coro.send(None)
    assert stop.value.value == b"hello"


def test_an_edge_before_the_wait_is_remembered(world):
    stream = _stream(world, recv=[AGAIN, b"late"])
    assert stream.try_recv() is None and not stream.readable
    world.feed((7, IN))
    world.loop.turn()
    assert world.start(stream.recv()).result == b"late"


def test_an_edge_without_data_leads_back_to_the_wait(world):
    stream = _stream(world, recv=[AGAIN, AGAIN, b"data"])
    fiber = world.start(stream.recv())
    world.feed((7, IN))
    world.loop.turn()
    assert not fiber.done
    world.feed((7, IN))
    world.loop.turn()
    assert fiber.result == b"data"


def test_a_clear_bit_spares_the_attempt(world):
    stream = _stream(world, recv=[AGAIN])
    assert stream.try_recv() is None
    assert stream.try_recv() is None
    assert len(stream.sock.recv.calls) == 1


def test_a_short_plain_read_proves_the_socket_empty(world):
    stream = _stream(world, recv=[b"short"])
    assert stream.try_recv(100) == b"short"
    assert not stream.readable


def test_a_full_plain_read_proves_nothing(world):
    stream = _stream(world, recv=[b"x" * 10, AGAIN])
    assert stream.try_recv(10) == b"x" * 10
    assert stream.readable
    assert stream.try_recv(10) is None


@pytest.mark.parametrize("mask", [IN | RDHUP, IN | HUP, IN | PRI, IN | select.EPOLLERR])
def test_a_short_read_proves_nothing_once_the_end_or_urgent_data_was_announced(world, mask):
    stream = _stream(world, recv=[b"last words", b""])
    world.feed((7, mask))
    world.loop.turn()
    assert stream.try_recv() == b"last words"
    assert stream.try_recv() == b"" and stream.eof
    assert stream.hup == (mask != IN | PRI)


def test_a_short_read_of_a_local_socket_proves_nothing(world):
    sock = FakeSocket(recv=[b"x", AGAIN])
    sock.family = socket.AF_UNIX
    stream = Stream(world.loop, sock)
    assert stream.try_recv() == b"x" and stream.readable


def test_the_end_is_told_again_and_again(world):
    stream = _stream(world, recv=[b"", b""])
    assert stream.try_recv() == b"" and stream.try_recv() == b""


# Fairness


def test_after_16_reads_a_reader_gives_up_its_turn(world):
    stream = _stream(world, recv=[b"x"] * 40)
    reads: list[int] = []

    async def greedy() -> None:
        for _ in range(40):
            await stream.recv(1)
            reads.append(world.loop.turns)

    world.finish(world.loop.spawn(greedy()))
    assert [reads.count(turn) for turn in sorted(set(reads))] == [16, 16, 8]


def test_after_256_kib_a_reader_gives_up_its_turn(world):
    stream = _stream(world, recv=[b"x" * 65536] * 6)
    reads: list[int] = []

    async def greedy() -> None:
        for _ in range(6):
            await stream.recv(65536)
            reads.append(world.loop.turns)

    world.finish(world.loop.spawn(greedy()))
    assert [reads.count(turn) for turn in sorted(set(reads))] == [4, 2]


def test_the_try_and_wait_loop_is_fair_too(world):
    stream = _stream(world, recv=[b"x"] * 17)
    for _ in range(16):
        assert stream.try_recv(1) == b"x"
    assert stream.try_recv(1) is None and stream.readable
    fiber = world.start(stream.wait_readable())
    assert not fiber.done
    world.loop.turn()
    assert fiber.done and stream.try_recv(1) == b"x"


def test_a_large_send_gives_up_its_turn_after_256_kib(world):
    stream = _stream(world, send=[262_144, 262_144, 100])
    fiber = world.start(stream.send(bytes(524_388)))
    assert len(stream.sock.send.calls) == 1
    world.finish(fiber)
    assert stream.bytes_out == 524_388


# Two fibers, two directions


def test_a_reader_and_a_writer_wait_on_one_descriptor(world):
    stream = _stream(world, recv=[AGAIN, b"in"], send=[AGAIN, 3])
    reader = world.start(stream.recv())
    writer = world.start(stream.send(b"out"))
    world.feed((7, OUT))
    world.loop.turn()
    assert writer.done and not reader.done
    world.feed((7, IN))
    world.loop.turn()
    assert reader.result == b"in"


def test_one_event_wakes_both(world):
    stream = _stream(world, recv=[AGAIN, b"in"], send=[AGAIN, 3])
    reader, writer = world.start(stream.recv()), world.start(stream.send(b"out"))
    world.feed((7, IN | OUT))
    world.loop.turn()
    assert reader.done and writer.done


def test_a_second_reader_is_refused_and_the_first_not_disturbed(world):
    stream = _stream(world, recv=[AGAIN, b"in"])
    first = world.start(stream.recv())
    second = world.start(stream.recv())
    assert isinstance(second.exception, RuntimeError)
    world.feed((7, IN))
    world.loop.turn()
    assert first.result == b"in"


def test_a_second_sender_is_refused_even_when_there_is_room_again(world):
    stream = _stream(world, send=[2, AGAIN, 2])
    first = world.loop.spawn(stream.send(b"abcd"))
    world.loop.turn()
    stream.writable = True  # the edge came, the first sender has not run yet
    second = world.start(stream.send(b"XY"))
    assert isinstance(second.exception, RuntimeError)
    assert not stream.broken
    world.feed((7, OUT))
    world.finish(first)
    assert [bytes(call) for call in stream.sock.send.calls] == [b"abcd", b"cd", b"cd"]


def test_a_tls_read_that_wants_to_write_waits_for_room(world):
    stream = _tls(world, FakeTLS(read=[WANT_WRITE, b"in"]))
    reader = world.start(stream.recv())
    world.feed((7, IN))
    world.loop.turn()
    assert not reader.done
    world.feed((7, OUT))
    world.loop.turn()
    assert reader.result == b"in"


def test_a_tls_send_that_wants_to_read_waits_for_bytes(world):
    tls = FakeTLS(write=[WANT_READ, 3])
    stream = _tls(world, tls)
    writer = world.start(stream.send(b"out"))
    world.feed((7, OUT))
    world.loop.turn()
    assert not writer.done
    world.feed((7, IN))
    world.loop.turn()
    assert writer.done
    assert tls.write.calls[0] is tls.write.calls[1]


def test_reader_and_writer_may_wait_for_the_same_direction(world):
    stream = _tls(world, FakeTLS(read=[WANT_READ, b"in"], write=[WANT_READ, 3]))
    reader, writer = world.start(stream.recv()), world.start(stream.send(b"out"))
    world.feed((7, IN))
    world.loop.turn()
    assert reader.result == b"in" and writer.done


def test_a_tls_edge_that_brings_only_a_ticket_leads_back_to_the_wait(world):
    stream = _tls(world, FakeTLS(read=[WANT_READ, WANT_READ, b"data"]))
    reader = world.start(stream.recv())
    for _ in range(2):
        world.feed((7, IN))
        world.loop.turn()
    assert reader.result == b"data"


def test_a_handshake_waits_for_whatever_it_wants(world):
    tls = FakeTLS(handshake=[WANT_READ, WANT_WRITE, WANT_READ, None])
    stream = Stream(world.loop, FakeSocket())
    fiber = world.start(start_tls(stream, FakeContext(tls), server_side=False))  # type: ignore
    for mask in (IN, OUT, IN):
        assert not fiber.done
        world.feed((7, mask))
        world.loop.turn()
    assert fiber.done and stream.tls is tls and not stream.broken


# Pending output


def test_a_tls_send_is_retried_with_the_same_object(world):
    tls = FakeTLS(write=[WANT_WRITE, WANT_WRITE, 5])
    stream = _tls(world, tls)
    data = b"hello"
    fiber = world.start(stream.send(data))
    for _ in range(2):
        world.feed((7, OUT))
        world.loop.turn()
    assert fiber.done
    assert all(call is data for call in tls.write.calls)


def test_a_large_tls_send_goes_in_slices_each_retried_as_it_is(world):
    tls = FakeTLS(write=[65_536, WANT_WRITE, 34_464])
    stream = _tls(world, tls)
    fiber = world.start(stream.send(bytes(100_000)))
    world.feed((7, OUT))
    world.loop.turn()
    assert fiber.done
    assert [len(call) for call in tls.write.calls] == [65_536, 34_464, 34_464]
    assert tls.write.calls[1] is tls.write.calls[2]


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_tls_send_cut_short_poisons_the_connection(world, how):
    tls = FakeTLS(write=[WANT_WRITE])
    stream = _tls(world, tls)
    fiber = world.start(stream.send(b"half"))
    if how == "cancel":
        fiber.cancel()
    else:
        fiber.expires = world.loop.now + 1
        world.loop.arm(fiber)
    with pytest.raises((Cancelled, DeadlineExceeded)):
        world.finish(fiber)
    assert stream.broken
    world.feed((7, OUT))
    after = world.start(stream.send(b"another"))
    assert isinstance(after.exception, StreamClosed)
    assert len(tls.write.calls) == 1
    stream.close()
    assert tls.goodbyes == 0, "a close_notify would go out in the middle of a record"


def test_a_plain_send_cut_in_the_middle_breaks_the_stream(world):
    stream = _stream(world, send=[2, AGAIN])
    fiber = world.start(stream.send(b"abcd"))
    fiber.cancel()
    world.loop.turn()
    assert stream.broken


def test_a_plain_send_cut_before_its_first_byte_does_not(world):
    stream = _stream(world, send=[AGAIN, 5])
    fiber = world.start(stream.send(b"abcd"))
    fiber.cancel()
    world.loop.turn()
    assert not stream.broken
    world.feed((7, OUT))
    assert world.start(stream.send(b"other")).exception is None


def test_try_send_of_another_buffer_is_refused_while_tls_holds_one(world):
    stream = _tls(world, FakeTLS(write=[WANT_WRITE]))
    assert stream.try_send(b"first") == 0
    stream.writable = True
    with pytest.raises(RuntimeError):
        stream.try_send(b"other")


def test_a_failed_send_breaks_the_stream(world):
    stream = _stream(world, send=[BrokenPipeError(errno.EPIPE, "gone")])
    assert isinstance(world.start(stream.send(b"x")).exception, BrokenPipeError)
    assert stream.broken


def test_an_empty_send_sends_nothing(world):
    assert world.start(_stream(world).send(b"")).exception is None


# The end


def test_ragged_and_clean_ends_differ(world):
    cut = ssl.SSLEOFError(8, "EOF occurred")
    cut.reason = "UNEXPECTED_EOF_WHILE_READING"
    ragged = _tls(world, FakeTLS(read=[cut]))
    assert ragged.try_recv() == b"" and ragged.eof and ragged.ragged
    assert ragged.try_recv() == b""
    ragged.close()
    clean = _tls(world, FakeTLS(read=[b""]))
    assert clean.try_recv() == b"" and clean.eof and not clean.ragged


def test_an_alert_is_told_from_other_failures(world):
    alert = ssl.SSLError(1, "alert")
    alert.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    stream = _tls(world, FakeTLS(read=[alert]))
    with pytest.raises(ssl.SSLError):
        stream.try_recv()
    assert stream.tls_alert and stream.broken
    stream.close()
    other = _tls(world, FakeTLS(read=[ConnectionResetError()]))
    with pytest.raises(ConnectionResetError):
        other.try_recv()
    assert not other.tls_alert


def test_close_wakes_who_waits_and_touches_the_descriptor_no_more(world):
    stream = _stream(world, recv=[AGAIN], send=[AGAIN])
    waiting = [world.start(stream.recv()), world.start(stream.send(b"x"))]
    stream.close()
    world.loop.turn()
    assert all(isinstance(fiber.exception, StreamClosed) for fiber in waiting)
    assert 7 not in world.poller.registered
    for call in (lambda: stream.try_recv(), lambda: stream.try_send(b"x")):
        with pytest.raises(StreamClosed):
            call()
    for coro in (stream.recv(), stream.send(b"x"), stream.wait_readable(), stream.wait_writable()):
        assert isinstance(world.start(coro).exception, StreamClosed)
    stream.close()
    stream.abort()
    assert stream.sock.done == ["close"]


def test_a_woken_reader_of_a_closed_stream_does_not_read_its_descriptors_new_owner(world):
    old = _stream(world, fd=7, recv=[AGAIN])
    reader = world.start(old.recv())

    async def closer() -> Stream:
        await world.loop.park()
        old.close()
        return _stream(world, fd=7, recv=[b"for the new owner"])

    first = world.start(closer())
    world.loop.call_soon(world.loop.unpark, first)
    world.loop.turn()
    new = first.result
    assert isinstance(reader.exception, StreamClosed)
    assert new.try_recv() == b"for the new owner"


def test_a_stale_event_in_the_batch_stays_with_the_old_stream(world):
    """Both descriptors have an event; the first one's fiber closes the second and reuses it."""
    first, second = _stream(world, fd=7, recv=[AGAIN, b"go"]), _stream(world, fd=8)
    made: list[Stream] = []

    async def body() -> None:
        await first.recv()
        second.close()
        made.append(_stream(world, fd=8, recv=[AGAIN]))
        assert made[0].try_recv() is None

    world.start(body())
    world.feed((7, IN), (8, IN))
    world.loop.turn()
    assert not made[0].readable


def test_abort_resets(world):
    stream = _stream(world)
    stream.abort()
    assert stream.sock.done == ["linger 0", "close"]


def test_what_readable_now_read_is_given_out_first(world):
    stream = _stream(world, recv=[b"stray bytes", b"more"])
    assert stream.readable_now()
    assert stream.try_recv(5) == b"stray"
    assert stream.try_recv(100) == b" bytes"
    assert stream.try_recv(100) == b"more"
    assert stream.bytes_in == 15


def test_an_idle_stream_is_not_readable_now(world):
    stream = _stream(world, recv=[b"answer", AGAIN])
    assert stream.try_recv() == b"answer"
    assert not stream.readable_now()
    world.feed((7, IN))
    world.loop.turn()
    assert not stream.readable_now()  # an edge that brought nothing
