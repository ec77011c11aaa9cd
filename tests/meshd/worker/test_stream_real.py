"""Streams on real sockets and real OpenSSL: what scripts cannot show."""

from __future__ import annotations

import errno
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshd.worker.listener import Listener
from meshd.worker.loop import Cancelled, DeadlineExceeded, Loop
from meshd.worker.stream import ConnectTimeout, Stream, StreamClosed, connect, start_tls

NAME = "reviews.test"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One self-signed certificate with its key, in one file; it is its own root."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "pair.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def _server(pem: Path, tickets: int = 0, mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pem)
    context.num_tickets = tickets
    context.set_alpn_protocols(["http/1.1"])
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pem)
    return context


def _client(pem: Path, certificate: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pem)
    context.set_alpn_protocols(["http/1.1"])
    if certificate:
        context.load_cert_chain(pem)
    return context


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.stop()
    loop.run()
    loop.close()


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        left = socket.create_connection(listening.getsockname())
        right, _ = listening.accept()
    for sock in (left, right):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return left, right


async def _tls_pair(
    loop: Loop, server: ssl.SSLContext, client: ssl.SSLContext
) -> tuple[Stream, Stream]:
    """Two streams of this loop, (server's, client's), after the handshake."""
    left, right = (Stream(loop, sock) for sock in _tcp_pair())
    accepting = loop.spawn(start_tls(left, server, server_side=True))
    await start_tls(right, client, server_side=False, server_hostname=NAME)
    await accepting.join()
    assert accepting.exception is None
    return left, right


async def _within(loop: Loop, seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    """A stall fails the test instead of hanging it."""
    fiber = loop.current
    fiber.expires = loop.now + seconds
    loop.arm(fiber)
    result = await work
    fiber.expires = 0.0
    return result


async def _read_exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.recv()
        assert piece, f"ended after {len(data)} of {size}"
        data += piece
    return data


def _run(loop: Loop, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def bounded() -> Any:
        return await _within(loop, 10, body())

    return loop.run_until_done(bounded())


# TLS records and edges


@pytest.mark.parametrize("size", [1, 16_383, 16_384, 16_385, 32_768, 32_769, 100_000, 1_000_003])
def test_a_body_of_any_size_arrives_over_tls_from_one_edge(loop, pem, size):
    """Everything is in the socket before the first read: one edge, many records."""

    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        data = os.urandom(size)
        sender = loop.spawn(client.send(data))
        await loop.sleep(0.005)
        assert await _read_exactly(server, size) == data
        await sender.join()
        assert server.bytes_in == client.bytes_out == size
        assert server.try_recv() is None and not server.readable
        # The stream is still in step: the next message has an edge of its own.
        await client.send(b"next")
        assert await server.recv() == b"next"

    _run(loop, body)


def test_records_that_trickle_in_byte_by_byte(loop, pem):
    """Each edge brings part of a record: a read finds bytes in the kernel, and yet nothing."""

    async def body() -> None:
        relay_in, client_sock = _tcp_pair()
        relay_out, server_sock = _tcp_pair()
        server, client = Stream(loop, server_sock), Stream(loop, client_sock)
        back = loop.spawn(_copy(loop, relay_out, relay_in, 65_536))
        forth = loop.spawn(_copy(loop, relay_in, relay_out, 7))
        accepting = loop.spawn(start_tls(server, _server(pem), server_side=True))
        await start_tls(client, _client(pem), server_side=False, server_hostname=NAME)
        await accepting.join()
        await client.send(b"x" * 300)
        assert await _read_exactly(server, 300) == b"x" * 300
        for fiber in (back, forth):
            fiber.cancel()

    _run(loop, body)


async def _copy(loop: Loop, source: socket.socket, sink: socket.socket, most: int) -> None:
    source.setblocking(False)
    while True:
        try:
            data = source.recv(65_536)
        except BlockingIOError:
            await loop.sleep(0)
            continue
        for at in range(0, len(data), most):
            sink.send(data[at : at + most])
            await loop.sleep(0)


def test_an_edge_with_only_a_ticket_wakes_nobody_for_good(loop, pem):
    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem, tickets=2), _client(pem))
        reader = loop.spawn(client.recv())
        await loop.sleep(0.02)
        assert not reader.done
        await server.send(b"answer")
        await reader.join()
        assert reader.result == b"answer"

    _run(loop, body)


def test_a_ticket_does_not_make_an_idle_connection_unfit(loop, pem):
    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem, tickets=2), _client(pem))
        await loop.sleep(0.02)
        assert client.readable  # the tickets' edge
        assert not client.readable_now()
        await server.send(b"stray")
        await loop.sleep(0.02)
        assert client.readable_now()
        assert client.try_recv() == b"stray"

    _run(loop, body)


def test_a_second_record_behind_an_answer_is_seen_before_reuse(loop, pem):
    """One edge, two records: after the first the connection looks idle, and is not."""

    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        await server.send(b"answer")
        await server.send(b"forged answer to the next request")
        await loop.sleep(0.02)
        assert client.try_recv() == b"answer"
        assert client.readable_now()

    _run(loop, body)


# Sends that end early


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_tls_send_that_ends_early_is_never_followed_by_another(loop, pem, how):
    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        sender = loop.spawn(client.send(b"a" * 20_000_000))
        await loop.sleep(0.01)
        assert not sender.done
        if how == "cancel":
            sender.cancel()
        else:
            sender.expires = loop.now + 0.01
            loop.arm(sender)
        await sender.join()
        assert isinstance(sender.exception, (Cancelled, DeadlineExceeded))
        assert client.broken
        with pytest.raises(StreamClosed):
            await client.send(b"b" * 30_000_000)
        client.close()
        received = set()
        while piece := await server.recv():
            received |= set(piece)
        assert received == {ord("a")}
        assert server.ragged

    loop.on_error = lambda *_: None
    _run(loop, body)


def test_full_duplex_over_tls_with_both_buffers_full(loop, pem):
    """Both sides send before they read: each has a reader and a writer fiber at once."""
    size = 8_000_000

    async def side(stream: Stream, fill: bytes) -> bytes:
        sender = loop.spawn(stream.send(fill * size))
        data = await _read_exactly(stream, size)
        await sender.join()
        return data

    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        one = loop.spawn(side(server, b"s"))
        other = loop.spawn(side(client, b"c"))
        await one.join()
        await other.join()
        assert set(one.result) == {ord("c")} and set(other.result) == {ord("s")}

    _run(loop, body)


# Ends


def test_close_says_goodbye_and_abort_does_not(loop, pem):
    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        client.close()
        assert await server.recv() == b"" and server.eof and not server.ragged
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        client.abort()
        with pytest.raises(ConnectionResetError):
            await server.recv()

    _run(loop, body)


def test_an_end_without_close_notify_is_ragged(loop, pem):
    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        await client.send(b"cut sho")
        client.sock.shutdown(socket.SHUT_RDWR)
        assert await server.recv() == b"cut sho"
        assert await server.recv() == b"" and server.ragged

    _run(loop, body)


def test_half_close_over_tls_keeps_what_the_peer_still_sends(loop, pem):
    async def body() -> None:
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        await server.send(b"already there ")
        await loop.sleep(0.01)
        client.shutdown_write()
        assert await server.recv() == b"" and not server.ragged
        await server.send(b"x" * 50_000)
        server.close()
        data = b""
        while piece := await client.recv():
            data += piece
        assert data == b"already there " + b"x" * 50_000
        assert not client.ragged

    _run(loop, body)


def test_data_and_fin_in_one_edge(loop):
    """The short read must not be taken for an empty socket: no further edge would come."""

    async def body() -> None:
        left, right = _tcp_pair()
        right.send(b"last words")
        right.close()
        time.sleep(0.01)
        stream = Stream(loop, left)
        await loop.sleep(0.01)
        assert await stream.recv() == b"last words"
        assert await stream.recv() == b""

    _run(loop, body)


def test_a_fin_between_the_poll_and_the_read(loop):
    async def body() -> None:
        left, right = _tcp_pair()
        stream = Stream(loop, left)
        right.send(b"last words")
        await loop.sleep(0.01)
        right.close()
        assert stream.try_recv() == b"last words"
        assert await stream.recv() == b""

    _run(loop, body)


def test_bytes_behind_urgent_data_are_found(loop):
    async def body() -> None:
        left, right = _tcp_pair()
        stream = Stream(loop, left)
        right.send(b"before")
        right.send(b"!", socket.MSG_OOB)
        right.send(b"after")
        await loop.sleep(0.01)
        assert await _read_exactly(stream, 11) == b"beforeafter"
        right.close()

    _run(loop, body)


# The handshake


def test_chain_and_alpn_of_a_mutual_handshake(loop, pem):
    async def body() -> None:
        server, client = await _tls_pair(
            loop, _server(pem, mutual=True), _client(pem, certificate=True)
        )
        der = ssl.PEM_cert_to_DER_cert(pem.read_text().partition("-----BEGIN PRIVATE")[0])
        assert server.peer_chain()[0] == client.peer_chain()[0] == der
        assert server.alpn() == client.alpn() == "http/1.1"
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        assert server.peer_chain() == []

    _run(loop, body)


def test_a_peeked_client_hello_is_read_again(loop, pem):
    async def body() -> None:
        left, right = _tcp_pair()
        server, client = Stream(loop, left), Stream(loop, right)
        asking = loop.spawn(
            start_tls(client, _client(pem), server_side=False, server_hostname=NAME)
        )
        await server.wait_readable()
        await loop.sleep(0.01)
        assert server.sock.recv(16_384, socket.MSG_PEEK)[0] == 22
        server.readable = False
        await start_tls(server, _server(pem), server_side=True)
        await asking.join()
        assert asking.exception is None

    _run(loop, body)


def test_a_refused_client_hears_the_alert_although_it_has_sent_already(loop, pem):
    """TLS 1.3: the client is done, and has sent a request, when the server judges."""

    async def body() -> None:
        left, right = _tcp_pair()
        server, client = Stream(loop, left), Stream(loop, right)

        async def serve() -> None:
            try:
                await start_tls(server, _server(pem, mutual=True), server_side=True)
            finally:
                server.close()

        serving = loop.spawn(serve())
        await start_tls(client, _client(pem), server_side=False, server_hostname=NAME)
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ssl.SSLError) as refusal:
            await client.recv()
        assert client.tls_alert and "CERTIFICATE_REQUIRED" in str(refusal.value)
        client.close()
        await serving.join()
        assert isinstance(serving.exception, ssl.SSLError)

    loop.on_error = lambda *_: None
    _run(loop, body)


def test_a_silent_peer_runs_into_the_fibers_deadline(loop, pem):
    async def body() -> None:
        left, right = _tcp_pair()
        stream = Stream(loop, left)
        fiber = loop.current
        fiber.expires = loop.now + 0.02
        loop.arm(fiber)
        with pytest.raises(DeadlineExceeded):
            await start_tls(stream, _server(pem), server_side=True)
        assert stream.broken
        stream.close()
        assert right.recv(10) == b""
        right.close()

    loop.run_until_done(body())


@pytest.mark.parametrize("last", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_peer_that_speaks_no_tls_or_leaves(loop, pem, last):
    async def body() -> None:
        left, right = _tcp_pair()
        right.send(last)
        right.close()
        stream = Stream(loop, left)
        with pytest.raises(OSError):
            await start_tls(stream, _server(pem), server_side=True)
        stream.close()

    _run(loop, body)


def test_a_peer_that_has_reset_before_the_handshake(loop, pem):
    async def body() -> None:
        left, right = _tcp_pair()
        stream = Stream(loop, left)
        other = Stream(loop, right)
        other.abort()
        await loop.sleep(0.01)
        with pytest.raises(OSError):
            await start_tls(stream, _server(pem), server_side=True)
        stream.close()
        assert stream.closed

    _run(loop, body)


# Connect and accept


def test_connect_accept_and_nodelay_on_both_sides(loop):
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listener = Listener(loop, listening)
            stream = await connect(loop, *listening.getsockname(), timeout=1)
            sock, address = await listener.accept()
            with sock:
                assert address == stream.sock.getsockname()
                for end in (sock, stream.sock):
                    assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.gettimeout() == 0.0
            stream.close()
            listener.close()

    _run(loop, body)


def test_accept_goes_on_when_descriptors_are_back():
    done = subprocess.run(
        [sys.executable, "-m", "tests.meshd.worker.exhausted"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_connect_over_ipv6(loop):
    async def body() -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
            stream = await connect(loop, "::1", listening.getsockname()[1], timeout=1)
            await stream.send(b"x")
            stream.close()

    _run(loop, body)


def test_a_refused_connect_says_where(loop):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

    async def body() -> None:
        with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1 port {port}"):
            await connect(loop, "127.0.0.1", port, timeout=1)

    _run(loop, body)


def _full_backlog() -> tuple[socket.socket, list[socket.socket]]:
    """A listener that answers no further SYN."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    queued = []
    for _ in range(3):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listening.getsockname())
        queued.append(sock)
    return listening, queued


def test_a_connect_without_an_answer_times_out_and_leaves_the_deadline_alone(loop):
    async def body() -> None:
        listening, queued = _full_backlog()
        fiber = loop.current
        fiber.expires = deadline = loop.now + 5
        loop.arm(fiber)
        with pytest.raises(ConnectTimeout, match="no answer") as failure:
            await connect(loop, *listening.getsockname(), timeout=0.03)
        assert failure.value.errno == errno.ETIMEDOUT
        assert fiber.expires == deadline
        fiber.expires = loop.now + 0.03
        loop.arm(fiber)
        with pytest.raises(DeadlineExceeded):
            await connect(loop, *listening.getsockname(), timeout=5)
        for sock in (listening, *queued):
            sock.close()

    loop.run_until_done(body())


def test_tcp_connected_to_itself_counts_as_refused(loop, monkeypatch):
    """Linux does that when the chosen source port is the dead destination."""
    real = socket.socket

    class Bound(real):
        def connect_ex(self, address: Any) -> int:
            self.bind(address)
            return super().connect_ex(address)

    with real() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr("meshd.worker.stream.socket.socket", Bound)

    async def body() -> None:
        with pytest.raises(ConnectionRefusedError):
            await connect(loop, "127.0.0.1", port, timeout=1)

    _run(loop, body)


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_behind(loop, pem):
    """Descriptors, fibers and registrations are back to the start."""

    async def one() -> None:
        server, client = await _tls_pair(loop, _server(pem), _client(pem))
        await client.send(b"x")
        await server.recv()
        server.close()
        client.abort()

    _run(loop, one)
    gc.collect()
    descriptors, sources = _open_descriptors(), len(loop._sources)
    for _ in range(20):
        _run(loop, one)
    gc.collect()
    assert _open_descriptors() == descriptors
    assert len(loop._sources) == sources
    assert not loop.fibers


def test_one_greedy_stream_leaves_others_their_turn(loop):
    """A peer that sends as fast as it can, and a timer that wants to be on time."""

    async def swallow(stream: Stream) -> None:
        while await stream.recv():
            pass

    async def body() -> float:
        left, right = _tcp_pair()
        flood = threading.Thread(target=_flood, args=(right,))
        flood.start()
        stream = Stream(loop, left)
        fiber = loop.spawn(swallow(stream))
        loop.take_lag()
        started = loop.turns
        await loop.sleep(0.2)
        turns = loop.turns - started
        fiber.cancel()
        await fiber.join()
        stream.abort()
        flood.join()
        assert stream.bytes_in / turns <= 262_144
        return loop.take_lag()

    assert _run(loop, body) < 1.0


def _flood(sock: socket.socket) -> None:
    try:
        while True:
            sock.sendall(bytes(1 << 20))
    except OSError:
        sock.close()
