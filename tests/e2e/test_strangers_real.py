"""Who must not get in, and to whom nothing must be sent, in a whole mesh."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import trio

from ca.client import APIError, PolicyClient
from tests.e2e.mesh import GENEROUS, REVIEWS, Mesh, wait_ready
from tests.meshd.agent.rig import until
from tests.meshd.worker.real.rig import Authority, identity

SNI = f"p{REVIEWS}.any.reviews.default.svc.cluster.local"
needs_root = pytest.mark.skipif(
    os.getuid() != 0 and "CI" not in os.environ, reason="needs root: other users' processes"
)


class Impostor:
    """A TLS server with the given certificate; counts handshakes and request bytes."""

    def __init__(self, address: str, pair: Path) -> None:
        self.handshakes, self.received = 0, b""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair)
        self._context.set_alpn_protocols(["http/1.1"])
        self._listener = socket.create_server((address, 0))
        self.closed = False
        self.port = int(self._listener.getsockname()[1])
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
                raw.settimeout(2.0)
                with self._context.wrap_socket(raw, server_side=True) as conn:
                    self.handshakes += 1
                    self.received += conn.recv(65536)
            except ssl.SSLError:
                continue
            except OSError:
                if self.closed:
                    return

    def close(self) -> None:
        self.closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def impostor(whole: Mesh) -> Iterator[Impostor]:
    """Host d, a member with account default/evil, whose certificate serves nobody else."""
    if "d" not in whole.hosts:
        whole.serve(whole.join("d", 4, "default/evil"), "evil", "v1", 9666)
        whole.start()
    d = whole.hosts["d"]
    server = Impostor(d.address, d.folder / "state" / "identity" / "default~evil.pem")
    yield server
    server.close()


def endpoints(whole: Mesh) -> str:
    """All that host a would send requests to."""
    return json.dumps(whole.hosts["a"].admin("/config/endpoints"))


def consul_says(whole: Mesh, port: int) -> None:
    """Host d registers itself as reviews, as meshd would."""
    d = whole.hosts["d"]
    assert whole.consul is not None
    registration = {
        "ID": "impostor",
        "Name": "reviews",
        "Address": d.address,
        "Port": REVIEWS,
        "Meta": {
            "baremesh-namespace": "default",
            "baremesh-instance": "v3",
            "baremesh-host": "d",
            "baremesh-protocol": "HTTP",
            "baremesh-port-name": "http",
            "baremesh-labels": json.dumps({"app": "reviews", "version": "v3"}),
        },
        "TaggedAddresses": {"baremesh": {"Address": d.address, "Port": port}},
    }
    whole.consul.call("PUT", "/v1/agent/service/register", registration)


async def registry_says(whole: Mesh, port: int) -> None:
    """Host d puts itself into the embedded registry as reviews."""
    d = whole.hosts["d"]
    pair = d.folder / "state" / "identity" / "host.pem"
    instance = {
        "service": "reviews",
        "namespace": "default",
        "instance": "v3",
        "port": REVIEWS,
        "portName": "http",
        "address": d.address,
        "meshPort": port,
        "protocol": "HTTP",
        "labels": {"app": "reviews", "version": "v3"},
    }
    client = PolicyClient(
        whole.rig.control,
        roots=(whole.folder / "ca" / "operator" / "roots.pem").read_text(),
        certificate=pair,
        key=pair,
        trust_domain="cluster.local",
    )
    async with client:
        with suppress(APIError):
            await client.put("/v1/registry", {"lease": 60, "instances": [instance]})


@pytest.mark.parametrize("whole", ["consul"], indirect=True)
def test_an_impostor_in_consul_receives_no_request(whole: Mesh, impostor: Impostor) -> None:
    consul_says(whole, impostor.port)
    until(lambda: f":{impostor.port}" in endpoints(whole), "host a hears of it", GENEROUS)
    served = whole.served_by(60)
    print(f"{impostor.handshakes} handshakes with the impostor; served by {served}")
    assert impostor.handshakes > 0, "it was asked who it is"
    assert impostor.received == b""
    assert served.keys() <= {"reviews-v1", "reviews-v2"}, "tried again elsewhere"
    assert whole.metric("a", "meshd_refusals_total", reason="unexpected_identity") > 0
    said = whole.log("a")
    assert "unexpected_identity" in said
    assert identity("evil") in said and identity("reviews") in said


def test_an_impostor_in_the_embedded_registry_receives_no_request(
    whole: Mesh, impostor: Impostor
) -> None:
    """With our own registry it does not even become an endpoint: it is not admitted."""
    d = whole.hosts["d"]
    port, fields = impostor.port, {"version": "v3", "serviceAccount": "evil", "user": "12345"}
    d.declare("reviews", REVIEWS, port, address=d.address, **fields)
    d.admin("/reload", "POST")
    refused = until(lambda: d.admin("/status")["refused"], "refused by the server", GENEROUS)
    assert refused[0]["service"] == "default/reviews"
    print(refused)
    check = whole.ctl("check")
    assert check.status == 1 and "d may not serve default/reviews" in check.out
    assert whole.served_by(30).keys() == {"reviews-v1", "reviews-v2"}
    assert impostor.received == b""
    (d.folder / "services.d" / "reviews.yaml").unlink()

    # Past its own meshd: straight into the registry, with the host's certificate.
    d.stop(signal.SIGKILL)
    trio.run(registry_says, whole, impostor.port)
    with suppress(AssertionError):
        until(lambda: f":{impostor.port}" in endpoints(whole), "host a hears of it", 3.0)
    served = whole.served_by(60)
    print(f"{impostor.handshakes} handshakes with the impostor; served by {served}")
    assert served.keys() == {"reviews-v1", "reviews-v2"}
    assert impostor.received == b""
    if impostor.handshakes:
        assert "unexpected_identity" in whole.log("a")
    else:
        assert f":{impostor.port}" not in endpoints(whole), "the server did not let it in"


@needs_root
def test_each_user_calls_under_its_own_identity_through_one_proxy_port(whole: Mesh) -> None:
    e = whole.join("e", 5, "default/red", "default/blue")
    users = {"red": 20001, "blue": 20002}
    for name, uid in users.items():
        whole.serve(e, name, "v1", 9700 + uid % 10, user=str(uid))
    whole.start()
    curl = shutil.which("curl")
    assert curl is not None
    proxy = f"http://{e.address}:{e.proxy}/"

    def call(uid: int) -> str:
        command = [curl, "-sS", "-H", f"Host: reviews:{REVIEWS}", "-w", " %{http_code}", proxy]
        done = subprocess.run(command, user=uid, capture_output=True, text=True, check=False)
        return done.stdout

    until(lambda: call(users["red"]).endswith("200"), "red calls", GENEROUS)
    for name in ("red", "blue", "red"):
        assert f"URI={identity(name)}" in call(users[name])
    refused = call(20003)
    assert refused.endswith("403") and "caller_unknown" in refused
    assert "uid 20003 owns no service" in whole.log("e")
    assert whole.metric("e", "meshd_refusals_total", reason="caller_unknown") >= 1


def dial(whole: Mesh, folder: Path, pair: tuple[bytes, bytes] | None) -> bytes:
    """What a client with this certificate gets from the mesh port of b; b"" when refused."""
    b = whole.hosts["b"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if pair is not None:
        (folder / "client.pem").write_bytes(pair[1] + pair[0])
        context.load_cert_chain(folder / "client.pem")
    with socket.create_connection((b.address, b.mesh), timeout=10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=SNI) as tls:
                tls.sendall(b"GET /stranger HTTP/1.1\r\nHost: reviews\r\n\r\n")
                return tls.recv(65536)
        except OSError:
            return b""


def refusals(whole: Mesh, reason: str) -> float:
    return whole.metric("b", "meshd_refusals_total", reason=reason)


def counted(whole: Mesh, reason: str, times: float) -> bool:
    return refusals(whole, reason) == times


def test_wrong_certificates_are_refused_counted_and_logged(whole: Mesh, tmp_path: Path) -> None:
    """Last here: the control plane stops, so that a foreign authority can be trusted."""
    b, own, foreign = whole.hosts["b"], Authority(), Authority("other.example")
    whole.rig.stop_server()
    b.stop()
    member = b.folder / "state" / "membership.json"
    known = json.loads(member.read_text())
    known["roots"]["cluster.local"] += own.pem  # a root whose leaves may be of any shape
    known["roots"]["other.example"] = foreign.pem
    member.write_text(json.dumps(known))
    b.start()
    wait_ready(b)

    shop = identity("shop")
    assert dial(whole, tmp_path, own.issue(shop)).startswith(b"HTTP/1.1 200"), whole.log("b")[
        -3000:
    ]
    cases = {
        "foreign_anchor": foreign.issue(shop),
        "several_uri_names": own.issue(shop, identity("reviews")),
        "ca_certificate": own.issue(shop, ca=True),
        "no_spiffe_id": own.issue(),
    }
    before_all = whole.applications["reviews-v1"].requests
    for reason, pair in cases.items():
        before = refusals(whole, reason)
        assert dial(whole, tmp_path, pair) == b"", reason
        until(partial(counted, whole, reason, before + 1), f"{reason} counted")
        assert f'"reason": "{reason}"' in whole.log("b")
    before = refusals(whole, "handshake_failed")
    assert dial(whole, tmp_path, None) == b""
    assert dial(whole, tmp_path, own.issue(shop, days=-1)) == b""
    assert dial(whole, tmp_path, Authority().issue(shop)) == b"", "nobody's authority"
    until(partial(counted, whole, "handshake_failed", before + 3), "counted")
    said = whole.log("b")
    assert "did not return a certificate" in said and "expired" in said
    assert whole.applications["reviews-v1"].requests == before_all, "none reached the application"
    assert dial(whole, tmp_path, foreign.issue("spiffe://other.example/ns/x/sa/y")) != b"", (
        "its own trust domain's certificates are what a foreign authority may sign"
    )
    whole.rig.start_server()
