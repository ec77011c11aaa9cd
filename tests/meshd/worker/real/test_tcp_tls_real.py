"""TLS that passes through by its server name, AUTO ports, and gateways' TCP."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from h2peer import Client, Server
from hosts import CLUSTER, HOST, get, read_answer
from hosts import echo as http_echo
from limits import ended, hits
from rig import identity, wait_for
from tcp import SNI, TCP, echo, mesh_client, whole

from meshkit.snapshot.types import (
    Destination,
    EdgeServer,
    Endpoint,
    ListenerSpec,
    OutboundHost,
    TCPRoute,
)

OWNER = "default/caller/main"


@pytest.fixture
def tls_app(tcp: TCP, tmp_path: Path) -> TCP:
    """The application ends TLS itself, under the name shop.test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = tmp_path / "shop.pem"
    pair.write_bytes(b"".join(tcp.hosts.authority.issue(identity("shop"))))
    context.load_cert_chain(pair)
    names: list[str] = []
    context.sni_callback = lambda _obj, name, _ctx: names.append(name)

    def handler(conn: socket.socket) -> None:
        with context.wrap_socket(conn, server_side=True) as tls:
            tls.sendall(names[-1].encode() + b" got " + tls.recv(100))
            tls.unwrap()

    tcp.hosts.use(handler)
    return tcp


def _tls(conn: socket.socket, name: str | None) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(conn, server_hostname=name)


def _ask(conn: socket.socket, name: str | None = "shop.test") -> bytes:
    with _tls(conn, name) as tls:
        tls.sendall(b"hello")
        answer = tls.recv(100)
        tls.unwrap()
        return answer


def _hello_bytes(name: str = "shop.test") -> bytes:
    """A ClientHello as OpenSSL makes it, in one record."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def _local(tcp: TCP, protocol: str, *routes: TCPRoute, **host: object) -> None:
    """The caller's port of the service, of another protocol."""
    spec = tcp.listener("near", kind="local", upstream=(HOST, 80), owner=OWNER, protocol=protocol)
    tcp.local = spec.port
    tcp.near(replace(tcp.outbound(*routes), **host))  # type: ignore[arg-type]


def _route(*names: str, cluster: str = CLUSTER) -> TCPRoute:
    return TCPRoute(f"to-{'-'.join(names)}", names, (Destination(cluster, 1),))


# Passthrough on a local port


@pytest.mark.parametrize("pattern", ["shop.test", "*.test", "*"])
def test_tls_passes_through_by_its_name(tls_app: TCP, pattern: str) -> None:
    _local(tls_app, "TLS", _route("other.test", cluster="gone"), _route(pattern))
    assert _ask(tls_app.dial()) == b"shop.test got hello"
    wait_for(lambda: tls_app.closed("-") == 1)
    line = tls_app.line()
    assert line["requested_server_name"] == "shop.test"
    assert line["route_name"] == f"to-{pattern}"


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_client_hello_in_pieces(tls_app: TCP, step: int) -> None:
    _local(tls_app, "TLS", _route("shop.test"))
    hello = _hello_bytes()
    with tls_app.dial() as conn:
        for at in range(0, len(hello), step):
            conn.sendall(hello[at : at + step])
            if at % 50 == 0:
                time.sleep(0.005)
        assert conn.recv(3) == b"\x16\x03\x03", "the application's ServerHello"


def test_a_client_hello_in_many_records(tls_app: TCP) -> None:
    _local(tls_app, "TLS", _route("shop.test"))
    hello = _hello_bytes()
    message = hello[5:]
    with tls_app.dial() as conn:
        for at in range(0, len(message), 40):
            piece = message[at : at + 40]
            conn.sendall(hello[:3] + len(piece).to_bytes(2, "big") + piece)
        assert conn.recv(3) == b"\x16\x03\x03"


def test_a_name_without_a_route(tls_app: TCP) -> None:
    _local(tls_app, "TLS", _route("shop.test"))
    with pytest.raises(OSError):
        _ask(tls_app.dial(), "other.test")
    wait_for(lambda: tls_app.closed("NR") == 1)
    assert f"{HOST}:80 for server name other.test" in tls_app.hosts.near.stderr.read_text()
    with pytest.raises(OSError):
        _ask(tls_app.dial(), None)
    wait_for(lambda: tls_app.closed("NR") == 2)
    assert tls_app.hosts.application.connections == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "bad_client_hello"),
        (b"\x16\x03\x01\x40\x00\x01\x00\xff\xff", "bad_client_hello"),
        (b"\x16\x03", "no_client_hello"),
        (b"", "no_client_hello"),
    ],
)
def test_no_client_hello(tls_app: TCP, data: bytes, reason: str) -> None:
    _local(tls_app, "TLS", _route("shop.test"))
    with tls_app.dial() as conn:
        conn.sendall(data)
        conn.shutdown(socket.SHUT_WR)
        assert ended(conn) == b""
    assert tls_app.count("meshd_refusals_total", reason=reason) == 1


def test_a_client_hello_that_never_comes(tls_app: TCP) -> None:
    _local(tls_app, "TLS", _route("shop.test"))
    tls_app.near(tls_app.outbound(_route("shop.test")), limits={"tls_handshake": 1})
    with tls_app.dial() as conn:
        conn.sendall(_hello_bytes()[:60])
        assert ended(conn) == b""
    assert hits(tls_app.hosts) == {"handshake_timeout": 1}
    assert _ask(tls_app.dial()) == b"shop.test got hello"


# AUTO


def _auto(tcp: TCP, **limits: int) -> None:
    host = tcp.outbound()
    http = tcp.hosts.outbound()
    tcp.far("AUTO")
    clusters = {name: replace(each, protocol="AUTO") for name, each in host.clusters.items()}
    _local(tcp, "AUTO", ports=http.ports, clusters=clusters)
    if limits:
        tcp.near(replace(host, ports=http.ports), limits=limits)


def test_auto_tells_http(tcp: TCP) -> None:
    _auto(tcp)
    tcp.hosts.use(http_echo)
    with tcp.dial() as conn:
        for piece in (b"G", b"ET / HT", get()[8:]):
            conn.sendall(piece)
            time.sleep(0.02)
        head, _ = read_answer(conn)
    assert head.startswith(b"HTTP/1.1 200"), tcp.hosts.near.stderr.read_text()
    wait_for(lambda: tcp.count("istio_requests_total", "far", response_code="200") == 1)


def test_auto_speaks_http2_to_the_application_of_a_client_that_does(tcp: TCP) -> None:
    """Nobody declared a version: a gRPC server behind AUTO takes no HTTP/1.1."""
    _auto(tcp)
    tcp.hosts.use(lambda conn: Server(conn)())
    with tcp.dial() as conn:
        assert Client(conn).get().status == 200, tcp.hosts.near.stderr.read_text()


def test_auto_passes_tls_and_other_bytes(tls_app: TCP) -> None:
    _auto(tls_app)
    assert _ask(tls_app.dial()) == b"shop.test got hello"
    tls_app.hosts.use(echo)
    with tls_app.dial() as conn:
        conn.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert conn.recv(100) == b"*1\r\n$4\r\nPING\r\n"


def test_auto_gives_up_waiting(tcp: TCP) -> None:
    """A server that speaks first is heard once the limit has passed."""
    _auto(tcp, sniff=1)
    tcp.hosts.use(lambda conn: (conn.sendall(b"220 ready"), conn.recv(1)))
    with tcp.dial() as conn:
        started = time.monotonic()
        assert conn.recv(100) == b"220 ready"
        assert 0.9 < time.monotonic() - started < 5
    assert hits(tcp.hosts) == {"sniff_timeout": 1}


def test_auto_of_plaintext(tcp: TCP) -> None:
    plain = tcp.listener(
        "far", kind="plain", service="default/app", service_port=80, protocol="AUTO"
    )
    tcp.far("AUTO")
    tcp.hosts.use(echo)
    with tcp.dial(plain.port) as conn:
        conn.sendall(b"\0bytes")
        assert conn.recv(10) == b"\0bytes"
    tcp.hosts.use(http_echo)
    with tcp.dial(plain.port) as conn:
        conn.sendall(get())
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")


# Gateways


def _edge(
    tcp: TCP, protocol: str, server: Callable[[str], EdgeServer], *names: str
) -> ListenerSpec:
    """The near host as a gateway with one port; `names` are the hosts of its scope."""
    spec = tcp.listener("near", kind="edge", protocol=protocol)
    hosts = [_gateway_host(tcp, name) for name in names]
    config = tcp.hosts.configs["near"]
    tcp.hosts.configs["near"] = replace(
        config, edge=(server(spec.id),), edge_identity=identity("caller")
    )
    tcp.hosts.apply(*hosts)
    return spec


def _gateway_host(tcp: TCP, name: str) -> OutboundHost:
    routes = () if name == "*" else (name,)
    return replace(tcp.outbound(), host=name, tcp={0: (_route(*routes),)})


def test_a_gateways_tcp_port(tcp: TCP) -> None:
    spec = _edge(tcp, "TCP", lambda i: EdgeServer(i, "default", ("*",), protocol="TCP"), "*")
    tcp.hosts.use(lambda conn: (conn.sendall(b"first "), echo(conn)))
    with tcp.dial(spec.port) as conn:
        assert conn.recv(6) == b"first "
        conn.sendall(b"hello")
        conn.shutdown(socket.SHUT_WR)
        assert whole(conn) == b"hello"
    wait_for(lambda: tcp.closed("-") == 1)


def test_a_gateway_passes_tls_through(tls_app: TCP) -> None:
    def server(ident: str) -> EdgeServer:
        return EdgeServer(ident, "default", ("*.test",), passthrough=True)

    spec = _edge(tls_app, "TLS", server, "shop.test")
    assert _ask(tls_app.dial(spec.port)) == b"shop.test got hello"
    wait_for(lambda: tls_app.closed("-") == 1)
    with pytest.raises(OSError):
        _ask(tls_app.dial(spec.port), "unknown.test")  # the server's, but no route
    wait_for(lambda: tls_app.closed("NR") == 1)
    for name in ("other.example", None):
        with pytest.raises(OSError):
            _ask(tls_app.dial(spec.port), name)
    wait_for(lambda: tls_app.count("meshd_refusals_total", reason="unknown_sni") == 2)
    assert not tls_app.count("meshd_handshakes_total")


def test_a_gateway_that_passes_any_name_still_needs_one(tls_app: TCP) -> None:
    def server(ident: str) -> EdgeServer:
        return EdgeServer(ident, "default", ("*",), passthrough=True)

    spec = _edge(tls_app, "TLS", server, "shop.test")
    with pytest.raises(OSError):
        _ask(tls_app.dial(spec.port), None)
    assert tls_app.count("meshd_refusals_total", reason="no_sni") == 1


@pytest.mark.parametrize("farewell", [True, False])
def test_a_gateway_ends_tls_and_passes_bytes(tcp: TCP, farewell: bool) -> None:
    """Many clients end TLS without close_notify: at the edge that is an end."""
    tcp.hosts.near.keys("shop-cert", tcp.hosts.authority.issue(identity("shop")))

    def server(ident: str) -> EdgeServer:
        return EdgeServer(ident, "default", ("*",), "shop-cert", protocol="TCP")

    spec = _edge(tcp, "TLS", server, "*")
    got: list[bytes] = []
    tcp.hosts.use(lambda conn: got.append(whole(conn)))
    with _tls(tcp.dial(spec.port), "shop.test") as tls:
        assert tls.selected_alpn_protocol() is None
        tls.sendall(b"hello")
        if farewell:
            tls.unwrap()
    wait_for(lambda: got == [b"hello"])
    wait_for(lambda: tcp.closed("-") == 1)


def test_a_gateway_with_http_and_passthrough_on_one_port(tls_app: TCP) -> None:
    """By its name a connection is one or the other."""
    tcp = tls_app
    tcp.hosts.near.keys("web-cert", tcp.hosts.authority.issue(identity("web")))
    spec = tcp.listener("near", kind="edge", protocol="TLS")
    config = tcp.hosts.configs["near"]
    tcp.hosts.configs["near"] = replace(
        config,
        edge=(
            EdgeServer(spec.id, "default", ("web.test",), "web-cert"),
            EdgeServer(spec.id, "default", ("shop.test",), passthrough=True),
        ),
        edge_identity=identity("caller"),
    )
    tcp.hosts.apply(_gateway_host(tcp, "shop.test"))
    assert _ask(tcp.dial(spec.port)) == b"shop.test got hello"
    with _tls(tcp.dial(spec.port), "web.test") as tls:
        tls.sendall(get(host="web.test"))
        assert tls.recv(100).startswith(b"HTTP/1.1 404")


def test_a_foreign_server_may_choose_raw_bytes(tcp: TCP, tmp_path: Path) -> None:
    """An Envoy writes and reads no preface: it says so by ALPN, or is not spoken to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = tmp_path / "app.pem"
    pair.write_bytes(b"".join(tcp.hosts.authority.issue(identity("app"))))
    context.load_cert_chain(pair)

    def handler(conn: socket.socket) -> None:
        with context.wrap_socket(conn, server_side=True) as tls:
            tls.sendall(tls.recv(100))

    tcp.hosts.use(handler)
    endpoint = Endpoint("127.0.0.1", tcp.hosts.application.port, SNI)
    tcp.near(tcp.outbound(endpoints=(endpoint,)))
    with pytest.raises(ConnectionResetError), tcp.dial() as conn:
        conn.recv(1)
    wait_for(lambda: tcp.closed("UF") == 1)
    assert "speaks no baremesh-tcp/1" in str(tcp.line()["upstream_transport_failure_reason"])
    context.set_alpn_protocols(["baremesh-tcp"])
    with tcp.dial() as conn:
        conn.sendall(b"no preface before this")
        assert conn.recv(100) == b"no preface before this"


def test_the_mesh_carries_megabytes_of_tls(tcp: TCP, tmp_path: Path) -> None:
    """TLS in TLS, both ways, through an AUTO port of the mesh."""
    data = os.urandom(2_000_000)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = tmp_path / "shop.pem"
    pair.write_bytes(b"".join(tcp.hosts.authority.issue(identity("shop"))))
    context.load_cert_chain(pair)

    def handler(conn: socket.socket) -> None:
        with context.wrap_socket(conn, server_side=True) as tls:
            received = bytearray()
            while len(received) < len(data):
                received += tls.recv(65536)
            tls.sendall(received)

    tcp.hosts.use(handler)
    _local(tcp, "TLS", _route("*"))
    with _tls(tcp.dial(), "shop.test") as tls:
        tls.sendall(data)
        received = bytearray()
        while len(received) < len(data):
            received += tls.recv(65536)
    assert received == data
    assert mesh_client(tcp.hosts, tmp_path)
