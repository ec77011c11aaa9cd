"""Who is not let in, over real sockets: wrong certificates, wrong callers, wrong bytes."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hosts import Hosts, get, read_answer, workload
from rig import Authority, identity, wait_for

from meshd import counters

SNI = "p80.main.app.default.svc.cluster.local"
CALLER = identity("caller")


def refusals(hosts: Hosts, reason: str, side: str = "far") -> int:
    rig = getattr(hosts, side)
    for series in counters.read(rig.folder / f"counters.{rig.index}"):
        if series.name == "meshd_refusals_total" and dict(series.labels)["reason"] == reason:
            return series.values[0]
    return 0


def dial(
    hosts: Hosts,
    folder: Path,
    pair: tuple[bytes, bytes] | None,
    sni: str = SNI,
    alpn: list[str] | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> bytes:
    """A foreign client's request on the mesh port; b"" when it was refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if alpn is None or alpn:
        context.set_alpn_protocols(alpn or ["http/1.1"])
    if pair is not None:
        both = folder / "client.pem"
        both.write_bytes(pair[0] + pair[1])
        context.load_cert_chain(both)
    with socket.create_connection(("127.0.0.1", hosts.mesh), timeout=10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=sni) as tls:
                tls.sendall(get())
                return tls.recv(65536)
        except OSError:
            return b""


def test_a_good_foreign_client_is_served(hosts: Hosts, tmp_path: Path) -> None:
    pair = hosts.authority.issue(CALLER)
    answer = dial(hosts, tmp_path, pair)
    assert answer.startswith(b"HTTP/1.1 200"), hosts.far.stderr.read_text()
    assert dial(hosts, tmp_path, pair, "p80.any.app.default.svc.cluster.local")


def test_certificates_that_are_refused(hosts: Hosts, tmp_path: Path) -> None:
    foreign = Authority("other.example")
    hosts.far.trust(hosts.authority, foreign)
    own = hosts.authority
    cases = {
        "foreign_anchor": foreign.issue(CALLER),
        "several_uri_names": own.issue(CALLER, identity("app")),
        "ca_certificate": own.issue(CALLER, ca=True),
        "no_spiffe_id": own.issue(),
        "invalid_spiffe_id": own.issue("spiffe://cluster.local/ns/../sa/x"),
        "unknown_trust_domain": own.issue("spiffe://third.example/ns/default/sa/x"),
    }
    for reason, pair in cases.items():
        assert dial(hosts, tmp_path, pair) == b"", reason
        assert refusals(hosts, reason) == 1, (reason, hosts.far.stderr.read_text())
        assert reason in hosts.far.stderr.read_text()
    assert hosts.application.connections == 0
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200"), "others are unharmed"


def test_handshakes_that_are_refused(hosts: Hosts, tmp_path: Path) -> None:
    good = hosts.authority.issue(CALLER)
    assert dial(hosts, tmp_path, None) == b""
    assert dial(hosts, tmp_path, hosts.authority.issue(CALLER, days=-1)) == b""
    assert dial(hosts, tmp_path, Authority().issue(CALLER)) == b""
    assert dial(hosts, tmp_path, good, version=ssl.TLSVersion.TLSv1_2) == b""
    wait_for(lambda: refusals(hosts, "handshake_failed") == 4)  # after the alert was read
    log = hosts.far.stderr.read_text()
    assert "did not return a certificate" in log and "expired" in log
    assert dial(hosts, tmp_path, good, alpn=["h3"]) == b""
    assert refusals(hosts, "no_common_alpn") == 1
    assert dial(hosts, tmp_path, good, sni="p81.main.app.default.svc.cluster.local") == b""
    assert dial(hosts, tmp_path, good, sni="example.com") == b""
    assert refusals(hosts, "unknown_sni") == 2
    assert hosts.application.connections == 0


def test_new_roots_cut_connections_they_do_not_cover(hosts: Hosts) -> None:
    other = Authority()
    with hosts.connect() as conn:
        conn.sendall(get())
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
        hosts.far.trust(other)
        hosts.near.trust(other)
        wait_for(lambda: refusals(hosts, "foreign_anchor") == 1)
        conn.sendall(get())
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("mode", ["PERMISSIVE", "STRICT"])
def test_plaintext_port_follows_the_mode(hosts: Hosts, mode: str) -> None:
    config = replace(hosts.configs["far"], workloads=(workload(hosts.application.port, mode),))
    assert hosts.far.configure(config, revision="2").type == "ack"
    if mode == "PERMISSIVE":
        with socket.create_connection(("127.0.0.1", hosts.plain), timeout=10) as conn:
            conn.sendall(get())
            assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    else:
        # The reset may come before connect() has returned.
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", hosts.plain), timeout=10) as conn,
        ):
            conn.sendall(get())
            if not conn.recv(1):
                raise ConnectionResetError
        wait_for(lambda: refusals(hosts, "plaintext_under_strict") == 1)
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200"), "mTLS goes on"


CURL = ["curl", "-sS", "-o", "-", "-w", "%{http_code}"]


def as_user(uid: int, *command: str) -> str:
    return subprocess.run(command, user=uid, capture_output=True, text=True, check=False).stdout


@pytest.mark.skipif(os.getuid() != 0 and "CI" not in os.environ, reason="needs root")
def test_a_process_of_no_service_is_refused(hosts: Hosts) -> None:
    url = f"http://127.0.0.1:{hosts.proxy}/"
    assert as_user(0, *CURL, "-H", "Host: app", url).endswith("200")
    refused = as_user(12345, *CURL, "-H", "Host: app", url)
    assert refused.endswith("403") and "caller_unknown" in refused
    assert refusals(hosts, "caller_unknown", "near") == 1
    assert "12345" in hosts.near.stderr.read_text()


@pytest.mark.skipif(os.getuid() != 0 and "CI" not in os.environ, reason="needs root")
def test_two_services_of_one_host_keep_their_identities(hosts: Hosts) -> None:
    config = hosts.configs["near"]
    (first,) = config.workloads
    second = replace(
        first, id="default/two/main", service="two", uid=12345, identity=identity("two")
    )
    hosts.near.keys(identity("two"), hosts.authority.issue(identity("two")))
    hosts.configs["near"] = replace(config, workloads=(first, second))
    hosts.apply(hosts.outbound())
    url = f"http://127.0.0.1:{hosts.proxy}/"
    for uid, account in ((0, "caller"), (12345, "two"), (0, "caller")):
        assert f"URI={identity(account)}\n" in as_user(uid, *CURL, "-H", "Host: app", url)


BAD = {
    "bad_request_line": b"GET  / HTTP/1.1\r\nHost: app\r\n\r\n",
    "several_lengths": b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 1\r\n"
    b"Content-Length: 1\r\n\r\nx",
    "length_and_coding": b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "several_hosts": b"GET / HTTP/1.1\r\nHost: app\r\nHost: app\r\n\r\n",
    "no_host": b"GET / HTTP/1.1\r\n\r\n",
    "bad_path": b"GET /%00 HTTP/1.1\r\nHost: app\r\n\r\n",
    "bad_line_ending": b"GET / HTTP/1.1\nHost: app\n\n",
    "bad_chunk": b"POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx",
    "too_many_headers": b"GET / HTTP/1.1\r\nHost: app\r\n" + b"a: b\r\n" * 101 + b"\r\n",
}


@pytest.mark.parametrize("code", BAD)
def test_bad_requests_are_refused_counted_and_closed(hosts: Hosts, code: str) -> None:
    received = b""
    with hosts.connect() as conn:
        conn.sendall(BAD[code])
        while data := conn.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 4") and b"\r\nconnection: close\r\n" in received
    hits = {
        dict(series.labels)["limit"]: series.values[0]
        for series in counters.read(hosts.near.folder / "counters.0")
        if series.name == "meshd_limit_hits_total"
    }
    assert hits == {code: 1}
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200")


def test_a_slow_head_ends_at_its_deadline(hosts: Hosts) -> None:
    hosts.configs["near"] = replace(hosts.configs["near"], limits={"headTimeout": 1})
    hosts.apply(hosts.outbound())
    with hosts.connect() as conn:
        conn.sendall(b"GET / HTTP/1.1\r\nHo")
        received = b""
        while data := conn.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 408")


def test_a_worker_writes_no_core_and_loads_little(hosts: Hosts) -> None:
    limits = Path(f"/proc/{hosts.near.process.pid}/limits").read_text()
    assert "Max core file size        0" in limits
    maps = Path(f"/proc/{hosts.near.process.pid}/maps").read_text()
    assert "_yaml" not in maps and sys.version_info >= (3, 11)
