"""TCP between two hosts: application → meshd → mTLS → meshd → application."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hosts import CLUSTER, HOST, Hosts, get
from limits import ended, hits
from rig import identity, listen, wait_for
from tcp import SNI, TCP, echo, mesh_client, whole

from meshkit.snapshot.preface import Preface, encode
from meshkit.snapshot.types import Destination, Endpoint, TCPRoute
from meshkit.telemetry.peer import Facts


def test_bytes_both_ways_and_half_close(tcp: TCP) -> None:
    tcp.hosts.use(echo)
    data = os.urandom(3_000_000)
    with tcp.dial() as conn:
        sender = threading.Thread(target=conn.sendall, args=(data,))
        sender.start()
        received = bytearray()
        while len(received) < len(data):
            received += conn.recv(65536)
        sender.join()
        assert received == data
        conn.shutdown(socket.SHUT_WR)
        assert conn.recv(1) == b""
    wait_for(lambda: tcp.closed("-") and tcp.closed("-", "far"))
    for side in ("near", "far"):
        assert tcp.count("istio_tcp_received_bytes_total", side) == len(data)
        assert tcp.count("istio_tcp_sent_bytes_total", side) == len(data)
    labels = {"source_workload": "caller-main", "destination_service_name": "app"}
    assert tcp.count("istio_tcp_connections_opened_total", "far", **labels) == 1
    line = tcp.line()
    assert (line["route_name"], line["upstream_cluster"]) == ("tcp-route", CLUSTER)
    assert (line["bytes_received"], line["bytes_sent"]) == (len(data), len(data))
    assert line["response_flags"] == "-" and line["response_code"] == 0


def test_an_answer_after_the_end_of_the_request(tcp: TCP) -> None:
    def handler(conn: socket.socket) -> None:
        conn.sendall(b"%d bytes" % len(whole(conn)))

    tcp.hosts.use(handler)
    with tcp.dial() as conn:
        conn.sendall(b"x" * 100_000)
        conn.shutdown(socket.SHUT_WR)
        assert whole(conn) == b"100000 bytes"


def test_a_server_that_speaks_first_is_not_waited_for(tcp: TCP) -> None:
    tcp.hosts.use(lambda conn: (conn.sendall(b"220 ready\r\n"), conn.recv(1)))
    with tcp.dial() as conn:
        started = time.monotonic()
        assert conn.recv(100) == b"220 ready\r\n"
        assert time.monotonic() - started < 2


def test_a_reset_by_the_application_reaches_the_caller(tcp: TCP) -> None:
    def handler(conn: socket.socket) -> None:
        conn.recv(1)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    tcp.hosts.use(handler)
    with pytest.raises(ConnectionResetError), tcp.dial() as conn:
        conn.sendall(b"x")
        conn.recv(1)
    wait_for(lambda: tcp.closed("UC") == 1 and tcp.closed("UC", "far") == 1)


def test_a_reset_by_the_caller_reaches_the_application(tcp: TCP) -> None:
    seen: list[str] = []

    def handler(conn: socket.socket) -> None:
        conn.sendall(b"go")
        try:
            conn.recv(1)
        except ConnectionResetError:
            seen.append("reset")

    tcp.hosts.use(handler)
    conn = tcp.dial()
    assert conn.recv(2) == b"go"
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()
    wait_for(lambda: seen == ["reset"])
    wait_for(lambda: tcp.closed("DC") == 1 and tcp.closed("DC", "far") == 1)


# The way up


def test_a_connect_failure_is_repeated_on_another_endpoint(tcp: TCP) -> None:
    tcp.hosts.use(echo)
    with listen() as closed:
        port = closed.getsockname()[1]
    dead, live = Endpoint("127.0.0.1", port, SNI), Endpoint("127.0.0.1", tcp.hosts.mesh, SNI)
    tcp.near(tcp.outbound(endpoints=(dead, live)))
    for _ in range(4):
        with tcp.dial() as conn:
            conn.sendall(b"ping")
            assert conn.recv(4) == b"ping"
    assert tcp.count("meshd_upstream_connect_failures_total") >= 1
    wait_for(lambda: tcp.closed("-") == 4)


@pytest.mark.parametrize(
    ("flags", "details", "change"),
    [
        ("UH", "no_healthy_upstream", {"endpoints": ()}),
        ("UF", "upstream_connection_failure", {"endpoints": (Endpoint("127.0.0.1", 1, SNI),)}),
        ("UF", "upstream_identity_refused", {"accounts": (identity("other"),)}),
        ("UF", "upstream_identity_refused", {"accounts": ()}),
        ("NC", "cluster_not_found", {"name": "gone"}),
    ],
)
def test_what_cannot_be_served_is_reset(
    tcp: TCP, flags: str, details: str, change: dict[str, object]
) -> None:
    host = tcp.outbound(**change)
    if flags == "NC":
        host = replace(host, clusters={})
    tcp.near(host)
    with pytest.raises(ConnectionResetError), tcp.dial() as conn:
        conn.recv(1)
    wait_for(lambda: tcp.closed(flags) == 1)
    line = tcp.line()
    assert (line["response_flags"], line["response_code_details"]) == (flags, details)
    assert line["upstream_transport_failure_reason"] != "-"
    assert tcp.hosts.application.connections == 0


def test_no_route(tcp: TCP) -> None:
    tcp.near(replace(tcp.outbound(), tcp={81: tcp.outbound().tcp[80]}))
    with pytest.raises(ConnectionResetError), tcp.dial() as conn:
        conn.recv(1)
    wait_for(lambda: tcp.closed("NR") == 1)
    assert tcp.count("meshd_refusals_total", reason="tcp_route_not_found") == 1


def test_weights_choose_by_connection(tcp: TCP) -> None:
    tcp.hosts.use(lambda conn: conn.sendall(b"app"))
    plain = listen()
    threading.Thread(target=_answer, args=(plain, b"new"), daemon=True).start()
    host = tcp.outbound()
    other = replace(
        host.clusters[CLUSTER],
        name="new",
        endpoints=(Endpoint("127.0.0.1", plain.getsockname()[1]),),
        accounts=(),
    )
    route = TCPRoute("split", (), (Destination(CLUSTER, 50), Destination("new", 50)))
    tcp.near(replace(host, clusters={**host.clusters, "new": other}, tcp={80: (route,)}))
    answers = []
    for _ in range(24):
        with tcp.dial() as conn:
            answers.append(whole(conn))
    plain.close()
    assert set(answers) == {b"app", b"new"}


def _answer(listening: socket.socket, data: bytes) -> None:
    while True:
        try:
            conn, _ = listening.accept()
        except OSError:
            return
        with conn:
            conn.sendall(data)


# Who calls


def test_a_stranger_is_reset(tcp: TCP) -> None:
    config = tcp.hosts.configs["near"]
    other = tuple(replace(w, uid=54321) for w in config.workloads)
    tcp.near(workloads=other)
    with pytest.raises(ConnectionResetError), tcp.dial() as conn:
        conn.recv(1)
    assert tcp.count("meshd_refusals_total", reason="caller_unknown") == 1
    assert "54321" not in tcp.hosts.near.stderr.read_text()
    assert tcp.hosts.application.connections == 0


def test_the_principal_is_known_on_the_other_side(tcp: TCP) -> None:
    tcp.hosts.use(echo)
    with tcp.dial() as conn:
        conn.sendall(b"x")
        conn.recv(1)
        labels = {
            "source_principal": identity("caller"),
            "source_workload": "caller-main",
            "connection_security_policy": "mutual_tls",
            "request_protocol": "tcp",
        }
        wait_for(lambda: tcp.count("istio_tcp_connections_opened_total", "far", **labels) == 1)


# The mesh port


def _mesh(tcp: TCP, folder: Path, alpn: tuple[str, ...] = ("baremesh-tcp/1",)) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", tcp.hosts.mesh), timeout=10)
    context = mesh_client(tcp.hosts, folder, alpn=alpn)
    return context.wrap_socket(raw, server_hostname=SNI, suppress_ragged_eofs=False)


PREFACE = encode(Preface(Facts("foreign-1", "other", "foreign", "v9"), ("10.0.0.7", 80)))


@pytest.mark.parametrize("step", [1, 7, len(PREFACE), len(PREFACE) + 5])
def test_a_preface_in_any_pieces(tcp: TCP, tmp_path: Path, step: int) -> None:
    tcp.hosts.use(echo)
    data = PREFACE + b"hello"
    with _mesh(tcp, tmp_path) as conn:
        for at in range(0, len(data), step):
            conn.sendall(data[at : at + step])
        received = b""
        while len(received) < 5:
            received += conn.recv(5)
        assert received == b"hello"
    labels = {"source_workload": "foreign-1", "source_principal": identity("caller")}
    wait_for(lambda: tcp.count("istio_tcp_connections_opened_total", "far", **labels) == 1)


def test_a_foreign_peer_needs_no_preface(tcp: TCP, tmp_path: Path) -> None:
    tcp.hosts.use(lambda conn: (conn.sendall(b"ready"), echo(conn)))
    with _mesh(tcp, tmp_path, ("baremesh-tcp",)) as conn:
        assert conn.recv(5) == b"ready"
        conn.sendall(b"hello")
        assert conn.recv(5) == b"hello"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "preface_invalid"),
        (b"BMT1\x04\x00" + bytes(1024), "preface_size"),
        (b"BMT1\x00\x02\x01\x05", "preface_invalid"),
    ],
)
def test_no_preface(tcp: TCP, tmp_path: Path, data: bytes, code: str) -> None:
    with _mesh(tcp, tmp_path) as conn:
        conn.sendall(data)
        with pytest.raises(OSError):
            assert conn.recv(1)
    assert hits(tcp.hosts, "far") == {code: 1}
    assert tcp.count("meshd_refusals_total", "far", reason=code) == 1
    assert tcp.hosts.application.connections == 0


def test_an_http_port_takes_no_tcp(tcp: TCP, tmp_path: Path) -> None:
    tcp.far("HTTP")
    with pytest.raises(OSError):
        _mesh(tcp, tmp_path)
    assert tcp.count("meshd_refusals_total", "far", reason="no_common_alpn") == 1
    assert "port 80 is HTTP, the client offers baremesh-tcp/1" in tcp.hosts.far.stderr.read_text()


@pytest.mark.parametrize("alpn", [("http/1.1",), ("h2", "http/1.1"), ("foo",)])
def test_a_tcp_port_takes_no_http(tcp: TCP, tmp_path: Path, alpn: tuple[str, ...]) -> None:
    with pytest.raises(OSError):
        _mesh(tcp, tmp_path, alpn)
    assert tcp.count("meshd_refusals_total", "far", reason="no_common_alpn") == 1


def test_an_auto_port_takes_both(tcp: TCP, tmp_path: Path) -> None:
    tcp.far("AUTO")
    tcp.hosts.use(echo)
    with _mesh(tcp, tmp_path) as conn:
        conn.sendall(encode(Preface()) + b"hello")
        assert conn.recv(5) == b"hello"
    with _mesh(tcp, tmp_path, ("http/1.1",)) as conn:
        assert conn.selected_alpn_protocol() == "http/1.1"


# Policy while connections live


def test_plaintext_is_joined_under_permissive_and_reset_under_strict(tcp: TCP) -> None:
    tcp.hosts.use(echo)
    with tcp.dial(tcp.plain) as conn:
        conn.sendall(b"plain")
        assert conn.recv(5) == b"plain"
        assert tcp.count("meshd_plaintext_connections_total", "far") == 1
        tcp.far(mode="STRICT")
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
    with pytest.raises(ConnectionResetError), tcp.dial(tcp.plain) as conn:
        conn.recv(1)
    assert tcp.count("meshd_refusals_total", "far", reason="plaintext_under_strict") == 2
    wait_for(lambda: tcp.lines("far"))
    assert tcp.line("far")["connection_termination_details"] == "plaintext_under_strict"


def test_mtls_goes_on_under_strict(tcp: TCP) -> None:
    tcp.hosts.use(echo)
    with tcp.dial() as conn:
        conn.sendall(b"a")
        assert conn.recv(1) == b"a"
        tcp.far(mode="STRICT")
        conn.sendall(b"b")
        assert conn.recv(1) == b"b"


def test_connections_end_when_their_roots_do(tcp: TCP, hosts: Hosts) -> None:
    from rig import Authority

    tcp.hosts.use(echo)
    with tcp.dial() as conn:
        conn.sendall(b"a")
        assert conn.recv(1) == b"a"
        hosts.far.trust(Authority("other.example"))
        assert ended(conn) == b""
    wait_for(lambda: tcp.closed("DC", "far") == 1)


# Limits


def test_an_idle_connection_is_reset(tcp: TCP) -> None:
    route = TCPRoute("idle", (), (Destination(CLUSTER, 1),), idle_timeout=0.4)
    tcp.near(tcp.outbound(route))
    tcp.hosts.use(echo)
    with tcp.dial() as conn:
        for _ in range(4):
            conn.sendall(b"x")
            assert conn.recv(1) == b"x"
            time.sleep(0.2)
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
    wait_for(lambda: hits(tcp.hosts) == {"tcp_idle": 1})
    wait_for(lambda: tcp.closed("SI") == 1)


def test_the_idle_limit_of_the_worker(tcp: TCP) -> None:
    tcp.near(limits={"tcp_idle": 1})
    tcp.hosts.use(echo)
    with pytest.raises(ConnectionResetError), tcp.dial() as conn:
        conn.recv(1)
    wait_for(lambda: hits(tcp.hosts) == {"tcp_idle": 1})


def test_a_slow_preface(tcp: TCP, tmp_path: Path) -> None:
    tcp.far(limits={"tls_handshake": 1})
    with _mesh(tcp, tmp_path) as conn:
        conn.sendall(PREFACE[:9])
        with pytest.raises(OSError):
            assert conn.recv(1)
    assert hits(tcp.hosts, "far") == {"preface_timeout": 1}


def test_connections_of_a_listener(tcp: TCP) -> None:
    tcp.near(limits={"listener_connections": 2})
    tcp.hosts.use(echo)
    with tcp.dial() as one, tcp.dial() as two:
        for conn in (one, two):
            conn.sendall(b"x")
            assert conn.recv(1) == b"x"
        with tcp.dial() as three:
            assert ended(three) == b""
    refused = {"reason": "listener_connections"}
    assert tcp.count("meshd_connections_refused_total", **refused) == 1
    wait_for(lambda: tcp.closed("-") == 2)
    with tcp.dial() as conn:
        conn.sendall(b"x")
        assert conn.recv(1) == b"x"


def test_descriptors_run_out(tcp: TCP) -> None:
    """Who is joined goes on, who comes too late is reset or waits, and then all is well again."""
    tcp.hosts.use(echo)
    pid = tcp.hosts.near.process.pid
    kept: list[socket.socket] = []
    try:
        kept += [_joined(tcp) for _ in range(3)]
        used = _descriptors(pid)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 5, 4096))
        late = [tcp.dial() for _ in range(6)]
        kept += late
        time.sleep(0.5)
        for conn in kept[:3]:
            conn.sendall(b"still")
            assert conn.recv(5) == b"still"
        wait_for(lambda: tcp.count("meshd_accept_pauses_total") or tcp.closed("UF"))
        assert _descriptors(pid) <= used + 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4096, 4096))
    finally:
        for conn in kept:
            conn.close()
    time.sleep(1.2)  # one look at the descriptors later
    _joined(tcp).close()
    assert tcp.hosts.near.process.poll() is None
    assert not tcp.count("meshd_fiber_errors_total")


def test_short_of_descriptors_new_connections_are_refused(tcp: TCP) -> None:
    tcp.hosts.use(echo)
    pid = tcp.hosts.near.process.pid
    kept = [_joined(tcp) for _ in range(40)]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (_descriptors(pid) + 1, 4096))
    wait_for(lambda: '"stage": 2' in tcp.hosts.near.stderr.read_text())
    with pytest.raises(ConnectionResetError), tcp.dial() as conn:
        conn.recv(1)
    wait_for(lambda: tcp.closed("UO") == 1)
    assert hits(tcp.hosts)["overload_refused"] == 1
    for conn in kept:
        conn.sendall(b"y")
        assert conn.recv(1) == b"y"
        conn.close()


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _joined(tcp: TCP) -> socket.socket:
    conn = tcp.dial()
    conn.sendall(b"x")
    assert conn.recv(1) == b"x"
    return conn


def test_a_slow_reader_costs_little(tcp: TCP) -> None:
    """Of bytes that nobody takes, a hop holds less than 256 KiB."""
    tcp.hosts.use(lambda conn: conn.sendall(bytes(1 << 30)))
    first = [tcp.dial() for _ in range(4)]
    for conn in first:
        conn.recv(1)
    pids = {side: getattr(tcp.hosts, side).process.pid for side in ("near", "far")}
    time.sleep(0.5)
    before = {side: _pss(pid) for side, pid in pids.items()}
    more = [tcp.dial() for _ in range(16)]
    for conn in more:
        conn.recv(1)
    time.sleep(1.0)
    for side, pid in pids.items():
        assert (_pss(pid) - before[side]) / len(more) < 256 + 64, side  # TLS state besides
    for conn in first + more:
        conn.close()


def _pss(pid: int) -> int:
    """Memory of a process in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("Pss:")[1].split()[0])


def test_http_beside_tcp(tcp: TCP) -> None:
    """The proxy port knows the service too: it has no HTTP there."""
    answer, _ = tcp.hosts.request(get(host=HOST))
    assert answer.startswith(b"HTTP/1.1 404")


def test_a_drain_lets_connections_end(tcp: TCP) -> None:
    from meshkit.snapshot import messages

    tcp.hosts.use(echo)
    with tcp.dial() as conn:
        conn.sendall(b"x")
        assert conn.recv(1) == b"x"
        tcp.hosts.near.send(messages.drain(3))
        time.sleep(0.2)
        conn.sendall(b"y")
        assert conn.recv(1) == b"y"
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
    assert tcp.hosts.near.process.wait(5) == 0
