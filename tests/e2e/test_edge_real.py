"""The gateway in front of a whole mesh: curl, certificates by SNI, headers, reloads."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.client import Answer, Load, exchange, fetch
from tests.e2e.mesh import GENEROUS, Mesh, mesh, reviews_mesh
from tests.e2e.test_operating_real import ROUTE, SUBSETS
from tests.meshd.agent.rig import until

HTTP, HTTPS = 8080, 8443
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 8080, name: http, protocol: HTTP}}
    hosts: ["plain.example"]
  - port: {{number: 8080, name: moved, protocol: HTTP}}
    hosts: ["moved.example"]
    tls: {{httpsRedirect: true}}
  - port: {{number: 8443, name: shop, protocol: HTTPS}}
    hosts: ["shop.example"]
    tls: {{mode: SIMPLE, serverCertificate: {folder}/shop.pem, privateKey: {folder}/shop.key}}
  - port: {{number: 8443, name: bank, protocol: HTTPS}}
    hosts: ["bank.example"]
    tls: {{mode: SIMPLE, serverCertificate: {folder}/bank.pem, privateKey: {folder}/bank.key}}
"""
BOTH = ROUTE.replace("hosts: [reviews]", 'hosts: ["*"]\n  gateways: [edge]')


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The reviews mesh with a gateway of two workers on its fourth address."""
    with mesh(tmp_path_factory.mktemp("edge")) as whole:
        reviews_mesh(whole)
        address = whole.address(4)
        whole.join("edge", 4, "istio-system/mesh-gateway", module="gateway", bind=address)
        for name in ("shop", "bank"):
            certificate(whole.folder, name)
        whole.start()
        whole.apply("---".join((SUBSETS, GATEWAY.format(folder=whole.folder), BOTH)))
        served = lambda: request(whole, "plain.example").status == 200  # noqa: E731
        until(served, "the gateway serves", GENEROUS)
        yield whole


def certificate(folder: Path, name: str, serial: int = 1) -> None:
    """A new pair, put in place as certbot does: beside, then renamed."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", f"/CN={name}.example", "-set_serial", str(serial)),
            *("-keyout", f"{folder}/{name}.key.new", "-out", f"{folder}/{name}.pem.new"),
        ],
        check=True,
        capture_output=True,
    )
    for kind in ("key", "pem"):
        (folder / f"{name}.{kind}.new").rename(folder / f"{name}.{kind}")


def request(whole: Mesh, host: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(whole.address(4), HTTP, "/", {"Host": host, **named})


def over_tls(whole: Mesh, name: str) -> HTTPSConnection:
    """A connection whose ClientHello asks for ``name``."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = HTTPSConnection(whole.address(4), HTTPS, timeout=15, context=context)
    sock = socket.create_connection((whole.address(4), HTTPS), 15)
    connection.sock = context.wrap_socket(sock, server_hostname=name)
    return connection


def serial(connection: HTTPSConnection) -> int:
    assert isinstance(connection.sock, ssl.SSLSocket)
    der = connection.sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_curl_sends_one_user_to_v2_every_time_and_others_to_v1(edge: Mesh) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "curl is one of the system parts"
    urls = [f"http://{edge.address(4)}:{HTTP}/{number}" for number in range(50)]
    for user, version in (("test-user", "v2"), ("somebody", "v1")):
        command = [curl, "-sS", "-H", "Host: plain.example", "-H", f"end-user: {user}", *urls]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.count(f'"name": "reviews-{version}"') == 50
        assert done.stdout.count('"name":') == 50


def test_who_calls_is_said_by_the_gateway_alone(edge: Mesh) -> None:
    claimed = {
        "x-baremesh-source": "eyJ3Ijoic3B5In0",
        "X-Forwarded-Client-Cert": "By=spiffe://x;URI=spiffe://cluster.local/ns/default/sa/boss",
        "X-Forwarded-For": "10.9.8.7",
        "X-Forwarded-Proto": "https",
    }
    seen = fetch(edge.address(4), HTTP, "/", {"Host": "plain.example", **claimed}).json["headers"]
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-proto"] == "http"
    assert "x-baremesh-source" not in seen
    gateway = "spiffe://cluster.local/ns/istio-system/sa/mesh-gateway"
    assert f"URI={gateway}" in seen["x-forwarded-client-cert"], "set by the last hop"
    assert "boss" not in seen["x-forwarded-client-cert"]
    connection = over_tls(edge, "shop.example")
    over = exchange(connection, "/", {"Host": "shop.example"})
    assert over.json["headers"]["x-forwarded-proto"] == "https"
    assert "x-baremesh-destination" not in over.headers


def test_certificates_are_chosen_by_sni_and_hosts_by_their_server(edge: Mesh) -> None:
    shop, bank = over_tls(edge, "shop.example"), over_tls(edge, "bank.example")
    assert serial(shop) == serial(bank) == 1
    assert isinstance(shop.sock, ssl.SSLSocket) and isinstance(bank.sock, ssl.SSLSocket)
    assert shop.sock.getpeercert(True) != bank.sock.getpeercert(True)
    assert exchange(shop, "/", {"Host": "shop.example"}).name == "reviews-v1"
    assert exchange(bank, "/", {"Host": "bank.example"}).name == "reviews-v1"
    assert exchange(over_tls(edge, "shop.example"), "/", {"Host": "bank.example"}).status == 421
    assert request(edge, "shop.example").status == 404, "no plaintext server has this host"
    moved = request(edge, "moved.example")
    assert moved.status == 301
    assert moved.headers["location"] == "https://moved.example/"
    with pytest.raises(OSError):
        over_tls(edge, "unknown.example")


def test_a_replaced_certificate_is_served_and_no_connection_drops(edge: Mesh) -> None:
    kept = over_tls(edge, "shop.example")
    before = serial(kept)
    send = lambda: exchange(kept, "/", {"Host": "shop.example"})  # noqa: E731
    with Load(send, 1) as load:
        certificate(edge.folder, "shop", serial=7)
        until(lambda: serial(over_tls(edge, "shop.example")) == 7, "the new one", GENEROUS)
        edge.apply(GATEWAY.format(folder=edge.folder).replace("moved.example", "gone.example"))
    load.assert_none_failed()
    assert serial(kept) == before, "the same connection all the time"
    assert serial(over_tls(edge, "bank.example")) == 1
    assert request(edge, "moved.example").status == 404


def test_an_open_connection_follows_a_change_of_the_gateway(edge: Mesh) -> None:
    kept = HTTPConnection(edge.address(4), HTTP, timeout=15)
    assert exchange(kept, "/", {"Host": "plain.example"}).status == 200
    edge.apply(GATEWAY.format(folder=edge.folder).replace("plain.example", "other.example"))
    assert exchange(kept, "/", {"Host": "plain.example"}).status == 404
    assert exchange(kept, "/", {"Host": "other.example"}).status == 200
    edge.apply(GATEWAY.format(folder=edge.folder))
    assert exchange(kept, "/", {"Host": "plain.example"}).status == 200


def test_two_workers_serve_and_one_may_be_killed(edge: Mesh) -> None:
    gateway = edge.hosts["edge"]
    workers = gateway.admin("/status")["workers"]
    assert [w["phase"] for w in workers] == ["ready", "ready"]
    with Load(lambda: request(edge, "plain.example"), 3, 0.005) as load:
        os.kill(workers[0]["pid"], signal.SIGKILL)
        until(
            lambda: workers[0]["pid"] not in gateway.pids() and gateway.ready(),
            "a new worker",
            GENEROUS,
        )
    assert len(load.bad) <= 3, "what the killed worker held, at most"
    assert load.good > 20
