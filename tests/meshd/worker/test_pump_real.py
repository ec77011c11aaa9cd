"""The pump between real sockets, plain and TLS in any combination."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshd.worker.edges import StreamClosed
from meshd.worker.loop import Loop
from meshd.worker.pump import BUFFER, Pump
from meshd.worker.stream import Stream, start_tls
from tests.meshd.worker.real.rig import Authority, identity

MIB = 1 << 20


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    certificate, key = Authority().issue(identity("x"))
    path = tmp_path_factory.mktemp("tls") / "pair.pem"
    path.write_bytes(certificate + key)
    return path


def _context(pem: Path, server: bool, lenient: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if lenient:
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if server:
        context.load_cert_chain(pem)
        context.num_tickets = 0
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    far.settimeout(20)
    return near, far


@dataclass
class Ends:
    """The peers of a pump that runs in a thread of its own: `client`, and `server` behind it."""

    client: socket.socket
    server: socket.socket
    pump: Pump
    thread: threading.Thread

    def finish(self) -> Pump:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.pump


Join = Callable[..., Ends]


@pytest.fixture
def join(pem: Path) -> Iterator[Join]:
    """Start a pump; TLS on the sides named: our part is the server's towards the client."""
    ends: list[Ends] = []

    def start(
        down_tls: bool = False, up_tls: bool = False, lenient: bool = False, **options: object
    ) -> Ends:
        (down, client), (up, server) = _pair(), _pair()
        made: list[Pump] = []
        ready = threading.Event()

        async def body() -> None:
            a, b = Stream(loop, down), Stream(loop, up)
            if down_tls:
                await start_tls(a, _context(pem, True, lenient), server_side=True)
            if up_tls:
                context = _context(pem, False, lenient)
                await start_tls(b, context, server_side=False, server_hostname="x")
            made.append(Pump(loop, a, b, **options))  # type: ignore[arg-type]
            ready.set()
            await made[0].run()

        def run() -> None:
            loop.run_until_done(body())
            loop.close()

        loop = Loop()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        if down_tls:
            client = _context(pem, False).wrap_socket(client, suppress_ragged_eofs=False)
        if up_tls:
            server = _context(pem, True).wrap_socket(
                server, server_side=True, suppress_ragged_eofs=False
            )
        assert ready.wait(10)
        ends.append(Ends(client, server, made[0], thread))
        return ends[-1]

    yield start
    for one in ends:
        one.client.close()
        one.server.close()
        one.thread.join(5)


def _read_all(sock: socket.socket) -> bytes:
    pieces = []
    while piece := sock.recv(MIB):
        pieces.append(piece)
    return b"".join(pieces)


def _end(sock: socket.socket) -> None:
    """Half-close, keep reading; `ssl` cannot in TLS, so this side ends it raggedly there."""
    sock.shutdown(socket.SHUT_WR)


COMBINATIONS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize(("down_tls", "up_tls"), COMBINATIONS)
def test_megabytes_both_ways_at_once(join: Join, down_tls: bool, up_tls: bool) -> None:
    ends = join(down_tls, up_tls, lenient=True)
    up, down = os.urandom(5 * MIB), os.urandom(7 * MIB)
    got: dict[str, bytes] = {}

    def side(name: str, sock: socket.socket, size: int) -> None:
        data = bytearray()
        while len(data) < size:
            piece = sock.recv(65536)
            assert piece
            data += piece
        got[name] = hashlib.sha256(data).digest()

    readers = [
        threading.Thread(target=side, args=("server", ends.server, len(up))),
        threading.Thread(target=side, args=("client", ends.client, len(down))),
        threading.Thread(target=ends.server.sendall, args=(down,)),
    ]
    if down_tls or up_tls:
        # Two threads on one SSLSocket are not for the ssl module: one after another.
        readers[0].start()
        ends.client.sendall(up)
        readers[0].join(20)
        readers[1].start()
        ends.server.sendall(down)
        readers[1].join(20)
    else:
        for reader in readers:
            reader.start()
        ends.client.sendall(up)
        for reader in readers:
            reader.join(20)
    assert got["server"] == hashlib.sha256(up).digest()
    assert got["client"] == hashlib.sha256(down).digest()
    _end(ends.client)
    assert ends.server.recv(1) == b""
    _end(ends.server)
    pump = ends.finish()
    assert (pump.flags, pump.sent, pump.received) == ("-", len(up), len(down))


@pytest.mark.parametrize("up_tls", [False, True])
def test_half_close_while_the_answer_comes_at_full_speed(join: Join, up_tls: bool) -> None:
    """The close_notify must not meet the data that arrives: SSL_shutdown would ruin the rest."""
    ends = join(False, up_tls)
    answer = os.urandom(64 * MIB)
    sender = threading.Thread(target=ends.server.sendall, args=(answer,))
    ends.client.sendall(b"go")
    assert ends.server.recv(2) == b"go"
    sender.start()
    data = bytearray(ends.client.recv(MIB))
    ends.client.shutdown(socket.SHUT_WR)
    while len(data) < len(answer):
        piece = ends.client.recv(MIB)
        assert piece, ends.pump.why
        data += piece
    sender.join(10)
    assert data == answer
    assert ends.server.recv(1) == b"", "with TLS a close_notify: raggedness is an error here"
    if up_tls:
        ends.server.unwrap()  # type: ignore[attr-defined]
    ends.server.close()
    assert ends.client.recv(1) == b""
    assert ends.finish().flags == "-"


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize(("down_tls", "up_tls"), COMBINATIONS)
def test_a_reset_is_a_reset_on_the_other_side(join: Join, down_tls: bool, up_tls: bool) -> None:
    ends = join(down_tls, up_tls)
    ends.client.sendall(b"x")
    assert ends.server.recv(1) == b"x"
    _reset(ends.client)
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        ends.server.recv(1)
    assert ends.finish().flags == "DC"


@pytest.mark.parametrize("lenient", [False, True])
def test_tls_cut_without_close_notify(join: Join, lenient: bool) -> None:
    ends = join(True, False, lenient)
    ends.client.sendall(b"half a mess")
    ends.client.close()
    if lenient:
        assert _read_all(ends.server) == b"half a mess"
        ends.server.close()
        pump = ends.finish()
        assert pump.flags == "-", pump.why
    else:
        with pytest.raises(ConnectionResetError):
            _read_all(ends.server)
        assert ends.finish().flags == "DC"


def test_last_words_come_before_the_reset(join: Join) -> None:
    """A server that refuses: it says why and closes, with bytes of ours unread."""
    ends = join()
    ends.client.sendall(b"x" * 100_000)
    ends.server.recv(1)
    ends.server.sendall(b"ERROR 1040: too many connections")
    ends.server.close()  # a reset, for the rest was not read
    data = b""
    with pytest.raises(ConnectionResetError):
        while piece := ends.client.recv(MIB):
            data += piece
    assert data == b"ERROR 1040: too many connections"
    assert ends.finish().flags == "UC"


@pytest.mark.parametrize(("down_tls", "up_tls"), COMBINATIONS)
def test_a_slow_reader_holds_one_buffer(join: Join, down_tls: bool, up_tls: bool) -> None:
    ends = join(down_tls, up_tls)
    ends.client.settimeout(1.0)
    with pytest.raises(TimeoutError):
        while True:
            ends.client.sendall(bytes(65536))
    held = [len(way.held) for way in (ends.pump._up_way, ends.pump._down_way)]
    assert held[1] == 0 and 0 < held[0] <= BUFFER


def test_idle_in_real_time(join: Join) -> None:
    ends = join(idle=0.4)
    started = time.monotonic()
    pump = ends.finish()
    assert 0.4 <= time.monotonic() - started < 2 and pump.flags == "SI"
    with pytest.raises(ConnectionResetError):
        ends.client.recv(1)


def test_a_closed_stream_is_told_from_the_peers_end(join: Join) -> None:
    assert issubclass(StreamClosed, OSError)
    ends = join(idle=0.5)
    ends.pump.stop("DPE", "policy")
    assert ends.finish().flags == "DPE"
