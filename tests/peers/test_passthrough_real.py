"""TLS that the mesh does not end: by server name, whatever the ClientHello is cut into."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.certificates import server_certificate
from tests.peers.mesh import EDGE_DOMAIN, PeerMesh, Service
from tests.peers.patience import until
from tests.peers.programs import curl, run
from tests.peers.split_hello import SplitClient
from tests.peers.tcp_apps import TCPApplication

NAMES = ("bank", "shop")
PATIENCE = 30.0
WAYS = ("mesh", "edge")


@dataclass(frozen=True, slots=True)
class TLSService:
    service: Service
    roots: Path
    """PEM file of the root that its own certificate is signed with."""
    certificate: str

    def port(self, way: str) -> int:
        return self.service.local if way == "mesh" else self.service.edge_port


@pytest.fixture(scope="module")
def services(
    mesh: PeerMesh, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, TLSService]]:
    """Two applications that end TLS themselves, each with a root of its own."""
    started = []
    found = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        application, certificate = start(name, folder)
        started.append(application)
        service = mesh.add(name, "TLS", application.port)
        found[name] = TLSService(service, folder / "root.pem", certificate)
    yield found
    for application in started:
        application.close()


def start(name: str, folder: Path) -> tuple[TCPApplication, str]:
    root, (certificate, key) = server_certificate(f"{name}.{EDGE_DOMAIN}")
    (folder / "root.pem").write_text(root)
    (folder / "pair.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")

    def answer(conn: socket.socket) -> None:
        while conn.recv(65536):
            body = f"this is {name}\n".encode()
            conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    return TCPApplication(answer, context), certificate.decode()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_curl_reaches_the_application_by_its_own_certificate(
    services: dict[str, TLSService], tmp_path: Path, name: str, way: str
) -> None:
    """At the gateway both names share one port."""
    one = services[name]
    to = ("--connect-to", f"::127.0.0.1:{one.port(way)}", "--cacert", str(one.roots))
    got = curl(tmp_path, "--http1.1", *to, f"https://{one.service.edge_host}/")
    assert got.body == f"this is {name}\n".encode()


@pytest.mark.parametrize("name", NAMES)
def test_openssl_sees_the_applications_certificate(
    services: dict[str, TLSService], name: str
) -> None:
    one = services[name]
    address = f"127.0.0.1:{one.port('edge')}"
    said = run("openssl", "s_client", "-connect", address, "-servername", one.service.edge_host)
    assert one.certificate.strip() in said.text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("record", "segment"), [(16_384, 1), (50, 10_000), (1, 10_000), (7, 3)])
def test_a_client_hello_in_pieces(
    services: dict[str, TLSService], way: str, record: int, segment: int
) -> None:
    """Cut into records of some bytes, and these into segments of some bytes."""
    one = services["shop"]
    context = ssl.create_default_context(cafile=str(one.roots))
    with socket.create_connection(("127.0.0.1", one.port(way)), timeout=PATIENCE) as sock:
        client = SplitClient(sock, context, one.service.edge_host, record, segment)
        assert client.exchange(b"GET / HTTP/1.1\r\n\r\n").endswith(b"this is shop\n")


@pytest.mark.parametrize("name", ["nobody.peers.example", ""])
def test_a_name_that_nobody_has_is_closed_counted_and_logged(
    mesh: PeerMesh, services: dict[str, TLSService], name: str
) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    before = mesh.count("edge", "meshd_refusals_total", reason="unknown_sni")
    address = ("127.0.0.1", mesh.edge_tls)
    with socket.create_connection(address, timeout=PATIENCE) as sock, pytest.raises(OSError):
        context.wrap_socket(sock, server_hostname=name or None)
    counted = lambda: mesh.count("edge", "meshd_refusals_total", reason="unknown_sni")  # noqa: E731
    until(lambda: counted() == before + 1, "the refusal is counted")
    assert (name or "no SNI") in mesh.log("edge")


def test_what_is_no_tls_is_refused_where_tls_is_expected(
    mesh: PeerMesh, services: dict[str, TLSService]
) -> None:
    with socket.create_connection(("127.0.0.1", mesh.edge_tls), timeout=PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: shop.peers.example\r\n\r\n")
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass
    refused = lambda: mesh.count("edge", "meshd_refusals_total", reason="bad_client_hello")  # noqa: E731
    until(refused, "the refusal is counted")
