"""A gateway in front of a mesh host: HTTP, HTTPS by SNI, certificates that change."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509

from tests.meshd.agent.rig import Host, Rig, free_port, get, until

INSIDE, EDGE = "127.0.0.31", "127.0.0.32"

GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {http}, name: http, protocol: HTTP}}
    hosts: ["plain.example"]
  - port: {{number: {https}, name: shop, protocol: HTTPS}}
    hosts: ["shop.example"]
    tls: {{mode: SIMPLE, serverCertificate: {folder}/shop.pem, privateKey: {folder}/shop.key}}
  - port: {{number: {https}, name: bank, protocol: HTTPS}}
    hosts: ["bank.example"]
    tls: {{mode: SIMPLE, serverCertificate: {folder}/bank.pem, privateKey: {folder}/bank.key}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - route: [{{destination: {{host: web, port: {{number: {port}}}}}}}]
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def certificate(folder: Path, name: str, serial: int = 1) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", f"/CN={name}.example", "-set_serial", str(serial)),
            *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"),
        ],
        check=True,
        capture_output=True,
    )


def start(rig: Rig) -> tuple[Host, int, int]:
    """A host with ``web`` and a gateway; returns the gateway and its ports."""
    inside = rig.host("a", INSIDE)
    port = free_port(INSIDE)
    inside.declare("web", port, rig.application("web").port)
    rig.token(inside, "default/web")
    edge = rig.host("edge", EDGE, "gateway", bind=EDGE)
    rig.token(edge, "istio-system/mesh-gateway")
    http, https = free_port(EDGE), free_port(EDGE)
    for name in ("shop", "bank"):
        certificate(rig.folder, name)
    inside.start()
    edge.start()
    text = GATEWAY.format(http=http, https=https, folder=rig.folder, port=port)
    inside.wait_ready()
    rig.apply(text)
    until(lambda: f"edge|{EDGE}|{https}" in edge.admin("/status")["listeners"]["open"], "https")
    edge.wait_ready()
    served = lambda: get(EDGE, http, "/", Host="plain.example")[0] == 200  # noqa: E731
    until(served, f"the gateway serves\n{edge.log_tail()}")
    return edge, http, https


def serial(port: int, name: str) -> int:
    """The serial number of the certificate shown for ``name``."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sock = socket.create_connection((EDGE, port), 5)
    with context.wrap_socket(sock, server_hostname=name) as tls:
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def over_tls(port: int, name: str, host: str) -> tuple[int, str]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = HTTPSConnection(EDGE, port, timeout=5, context=context)
    with socket.create_connection((EDGE, port), 5) as sock:
        connection.sock = context.wrap_socket(sock, server_hostname=name)
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_http_and_https_reach_the_mesh_and_certificates_follow_their_files(rig: Rig) -> None:
    edge, http, https = start(rig)
    assert get(EDGE, http, "/", Host="other.example")[0] == 404
    status, body = over_tls(https, "shop.example", "shop.example")
    assert (status, json.loads(body)["name"]) == (200, "web")
    assert over_tls(https, "shop.example", "bank.example")[0] == 421
    assert serial(https, "shop.example") == 1
    assert serial(https, "bank.example") == 1

    certificate(rig.folder, "shop", serial=2)
    until(lambda: serial(https, "shop.example") == 2, "the new certificate", 15.0)
    assert serial(https, "bank.example") == 1

    (rig.folder / "shop.key").write_text("not a key")
    until(lambda: not edge.ready(), "the fault is said", 15.0)
    said = edge.probe("/readyz")[1]
    assert "Gateway/default/edge" in said
    assert "not an unencrypted PEM key" in said
    assert serial(https, "shop.example") == 2
    assert over_tls(https, "shop.example", "shop.example")[0] == 200


def test_a_gateway_reload_and_restart_keep_connections(rig: Rig) -> None:
    edge, http, _ = start(rig)
    import http.client as client

    kept = client.HTTPConnection(EDGE, http, timeout=5)
    kept.request("GET", "/", headers={"Host": "plain.example"})
    kept.getresponse().read()
    assert edge.admin("/reload", "POST") == {"reloaded": True}
    edge.stop()
    time.sleep(0.2)
    kept.request("GET", "/", headers={"Host": "plain.example"})
    assert kept.getresponse().read()
    edge.start()
    edge.wait_ready()
    kept.request("GET", "/", headers={"Host": "plain.example"})
    assert kept.getresponse().status == 200
