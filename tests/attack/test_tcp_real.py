"""TCP as a way in: first bytes that never end, names in disguise, and strangers on local ports."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from h2_peers import Peer
from hosts import HOST, Hosts, get, read_answer
from hosts import echo as http_echo
from limits import ended
from rig import identity, listen, wait_for
from tcp import SNI, TCP, echo, mesh_client

from meshkit.snapshot.preface import Preface, encode
from meshkit.snapshot.types import EdgeServer, OutboundHost
from meshkit.telemetry.peer import Facts
from tests.attack.raw import resident

OWNER = "default/caller/main"


def cpu(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tiny_records(size: int) -> bytes:
    """A ClientHello of so many bytes, each in a record of its own."""
    message = b"\x01" + size.to_bytes(3) + bytes(size)
    return b"".join(b"\x16\x03\x01\x00\x01" + bytes((byte,)) for byte in message)


def test_a_hello_in_crumbs_costs_its_sender_as_much_as_us(hosts: Hosts) -> None:
    data = tiny_records(2700)
    pid = hosts.far.process.pid
    before, mine = cpu(pid), time.process_time()
    with socket.create_connection(("127.0.0.1", hosts.mesh), timeout=20) as conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for at in range(0, len(data), 6):
                conn.send(data[at : at + 6])
                time.sleep(0.0005)
        except OSError:
            pass
        mine = time.process_time() - mine
        time.sleep(0.2)
    spent = cpu(pid) - before
    assert spent < 20 * mine + 0.2


# A port that is asked to guess


def auto(tcp: TCP, *names: str, **limits: int) -> None:
    """The caller's port of the service, guessing; TLS is routed by these names."""
    spec = tcp.listener("near", kind="local", upstream=(HOST, 80), owner=OWNER, protocol="AUTO")
    tcp.local = spec.port
    host = tcp.outbound()
    route = replace(host.tcp[80][0], sni_hosts=names)
    tcp.near(replace(host, tcp={80: (route,)}), limits=limits)


@pytest.mark.parametrize("data", [b"\x16\x03", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
def test_a_hello_that_never_ends_is_not_waited_for(tcp: TCP, data: bytes) -> None:
    auto(tcp, "shop.test", tls_handshake=1)
    with tcp.dial() as conn:
        conn.sendall(data)
        conn.settimeout(4)
        assert ended(conn) == b""
    assert tcp.hosts.application.connections == 0


def test_plaintext_that_waited_for_its_guess_is_judged_again(tcp: TCP) -> None:
    plain = tcp.listener(
        "far", kind="plain", service="default/app", service_port=80, protocol="AUTO"
    )
    tcp.far("AUTO")
    tcp.hosts.use(echo)
    with tcp.dial(plain.port) as conn, tcp.dial(plain.port) as web:
        time.sleep(0.1)
        tcp.far("AUTO", "STRICT")
        conn.sendall(b"\0secret")
        web.sendall(get())
        assert ended(conn) == b""
        assert read_answer(web)[0].startswith(b"HTTP/1.1 403")
    assert tcp.count("meshd_refusals_total", "far", reason="plaintext_under_strict") == 2


# Members: a certificate, and a loose tongue


def member(tcp: TCP, folder: Path, *alpn: str) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", tcp.hosts.mesh), timeout=5)
    context = mesh_client(tcp.hosts, folder, alpn=alpn or ("baremesh-tcp/1",))
    return context.wrap_socket(raw, server_hostname=SNI, suppress_ragged_eofs=False)


def test_lies_in_a_preface_are_labels_and_bounded(tcp: TCP, tmp_path: Path) -> None:
    tcp.hosts.use(echo)
    lie = Facts("admin", "kube-system", "admin", 'v1",source_principal="spiffe://x/admin')
    for number in range(80):
        facts = lie._replace(workload=f"w{number}")
        with member(tcp, tmp_path) as conn:
            conn.sendall(encode(Preface(facts, ("::1", 1))) + b"x")
            assert conn.recv(1) == b"x"
    metric = "istio_tcp_connections_opened_total"
    wait_for(lambda: tcp.count(metric, "far") == 80)
    assert tcp.count(metric, "far", source_principal=identity("caller")) == 80
    assert tcp.count(metric, "far", source_workload="unknown") >= 80 - 32


def test_what_follows_a_preface_is_the_applications(tcp: TCP, tmp_path: Path) -> None:
    tcp.hosts.use(echo)
    second = encode(Preface(Facts("a", "b", "c", "d")))
    for rest in (second, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with member(tcp, tmp_path) as conn:
            conn.sendall(encode(Preface()) + rest)
            assert conn.recv(len(rest)) == rest


@pytest.mark.parametrize(
    "data",
    [
        b"BMT1",
        b"BMT2\0\0",
        b"BMT1\0\x03\x01\x00\x01",
        b"BMT1\0\x04\x01\0\x01\0",
        b"BMT1\0\x05\x05\x03abc",
        b"\x16\x03\x01\x02\0\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"",
    ],
)
def test_a_preface_that_is_none_reaches_nobody(tcp: TCP, tmp_path: Path, data: bytes) -> None:
    with member(tcp, tmp_path) as conn:
        conn.sendall(data)
        conn.shutdown(socket.SHUT_WR)
        ended(conn)
    assert tcp.hosts.application.connections == 0


def test_offering_every_protocol_chooses_the_ports_own(tcp: TCP, tmp_path: Path) -> None:
    every = ("baremesh-tcp/1", "baremesh-tcp", "h2", "http/1.1", "h2c")
    for protocol, chosen in (("TCP", "baremesh-tcp/1"), ("HTTP", "h2"), ("AUTO", "h2")):
        tcp.far(protocol)
        with member(tcp, tmp_path, *every) as conn:
            assert conn.selected_alpn_protocol() == chosen, protocol


# Strangers on this host

STRANGER = """
import os, socket, struct, sys
socket.getaddrinfo("127.0.0.1", 80)  # its codec is loaded while it can be
os.setuid(54321)
port, times = map(int, sys.argv[1:])
for number in range(times):
    try:
        conn = socket.create_connection(("127.0.0.1", port), timeout=5)
        conn.sendall(b"evil")
        if number % 2:  # gone before anybody can ask whose it was
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif number % 4:
            conn.shutdown(socket.SHUT_WR)
        if number % 3 == 0:
            assert not conn.recv(1)
        conn.close()
    except OSError:
        pass
"""


def test_another_user_never_speaks_through_a_services_port(tcp: TCP) -> None:
    seen: list[bytes] = []
    tcp.hosts.use(lambda conn: (seen.append(conn.recv(4)), conn.sendall(b"ok")))
    command = [sys.executable, "-I", "-c", STRANGER, str(tcp.local), "400"]
    with subprocess.Popen(command) as stranger:
        good = 0
        while stranger.poll() is None or good < 20:
            with tcp.dial() as conn:
                conn.sendall(b"good")
                good += conn.recv(2) == b"ok"
    assert stranger.returncode == 0
    assert good >= 20 and seen.count(b"good") == good and b"evil" not in seen


def test_a_capture_port_is_no_destination(tcp: TCP) -> None:
    sock = listen("0.0.0.0")
    tcp.sockets.append(sock)
    spec = tcp.listener("near", kind="capture", owner=OWNER)
    tcp.hosts.configs["near"] = replace(
        tcp.hosts.configs["near"],
        listeners=tuple(
            replace(s, address="0.0.0.0") if s.id == spec.id else s
            for s in tcp.hosts.configs["near"].listeners
        ),
    )
    tcp.near()
    with pytest.raises(ConnectionResetError), tcp.dial(spec.port) as conn:
        conn.recv(1)
    assert tcp.count("meshd_refusals_total", reason="loop") == 1
    assert tcp.hosts.application.connections == 0


# Storms


def test_a_storm_of_resets_and_half_ends_leaves_nothing(tcp: TCP) -> None:
    tcp.hosts.use(echo)
    workers = [side.process.pid for side in (tcp.hosts.near, tcp.hosts.far)]
    with tcp.dial() as conn:
        conn.sendall(b"x")
        conn.recv(1)

    def open_files() -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers]

    time.sleep(0.3)
    files, memory = open_files(), [resident(pid) for pid in workers]
    linger = struct.pack("ii", 1, 0)
    for number in range(600):
        with socket.create_connection(("127.0.0.1", tcp.local), timeout=5) as conn:
            conn.sendall(b"x" * (number % 7) * 1000)
            if number % 3 == 0:
                conn.shutdown(socket.SHUT_WR)
            if number % 3 < 2:
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wait_for(lambda: all(a <= b + 2 for a, b in zip(open_files(), files, strict=True)))
    for pid, before in zip(workers, memory, strict=True):
        assert resident(pid) - before < 12 << 20
    with tcp.dial() as conn:
        conn.sendall(b"still")
        assert conn.recv(5) == b"still"


# A gateway with several servers on one port

NAMES = ("web.test", "other.test", "shop.test")


@pytest.fixture
def gateway(tcp: TCP) -> TCP:
    """web.test and other.test end here with a certificate each, shop.test passes through."""
    spec = tcp.listener("near", kind="edge", protocol="TLS")
    for name in ("web", "other"):
        tcp.hosts.near.keys(f"{name}-cert", tcp.hosts.authority.issue(identity(name)))
    tcp.hosts.configs["near"] = replace(
        tcp.hosts.configs["near"],
        edge=(
            EdgeServer(spec.id, "default", ("web.test", "*.web.test"), "web-cert"),
            EdgeServer(spec.id, "default", ("other.test",), "other-cert"),
            EdgeServer(spec.id, "default", ("shop.test", "*.test"), passthrough=True),
        ),
        edge_identity=identity("caller"),
    )
    tcp.far("HTTP")
    web = tcp.hosts.outbound()

    def host(name: str) -> OutboundHost:
        if name == "shop.test":
            return replace(tcp.outbound(), host=name, tcp={0: tcp.outbound().tcp[80]})
        return replace(web, host=name, ports={0: web.ports[80]})

    tcp.hosts.apply(*(host(name) for name in NAMES))
    tcp.hosts.use(http_echo)
    tcp.local = spec.port
    return tcp


def tls(tcp: TCP, name: str | None, *alpn: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    return context.wrap_socket(tcp.dial(), server_hostname=name)


def asked(peer: Peer, host: str, *more: tuple[str, str]) -> str:
    pseudo = (":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", host)
    return peer.head(peer.request(*pseudo, *more))[":status"]


def test_one_connection_is_for_one_server_of_a_gateway(gateway: TCP) -> None:
    with tls(gateway, "web.test", "h2") as conn:
        peer = Peer(conn, client=True)
        assert asked(peer, "web.test") == "200"
        for host in ("other.test", "OTHER.test", "other.test.", "other.test:443", "shop.test"):
            assert asked(peer, host) in ("421", "404"), host
        assert asked(peer, "other.test") == "421" == asked(peer, "a.shop.test")
        assert asked(peer, "web.test", ("x-forwarded-host", "other.test")) == "200"
        assert asked(peer, "web.test") == "200", "the connection goes on"
    with tls(gateway, "web.test", "http/1.1") as conn:
        conn.sendall(get(host="other.test"))
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize("name", ["WEB.test", "web.TEST", "Other.Test"])
def test_names_in_upper_case_are_the_same_names(gateway: TCP, name: str) -> None:
    with tls(gateway, name, "http/1.1") as conn:
        conn.sendall(get(host=name))
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "name", [b'a"},{.test', b"a\\u0000.test", b"%s%(x)s.test", b"<a>\x7f.test"]
)
def test_a_name_does_not_end_its_log_line(gateway: TCP, name: bytes) -> None:
    with gateway.dial() as conn:
        conn.sendall(hello(name))
        ended(conn)
    if b"\x7f" in name:
        assert gateway.count("meshd_refusals_total", reason="bad_client_hello") == 1
    else:
        assert gateway.line()["requested_server_name"] == name.decode()
    for text in gateway.hosts.near.stderr.read_text().splitlines():
        json.loads(text)


def hello(name: bytes) -> bytes:
    """A ClientHello with this name, put in place of another of its length."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    other = "x" * (len(name) - 5) + ".test"
    tls = context.wrap_bio(incoming, outgoing, server_hostname=other)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read().replace(other.encode(), name)
