"""An Envoy in the place of a meshd, on either side, over each protocol.

SNI, ALPN and the SAN of the certificates are checked on both sides; a wrong
one is refused, by us with a counter and a line in the log that say why.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshkit.snapshot.types import Endpoint
from tests.meshd.worker.real.rig import identity
from tests.peers.envoy import Envoy
from tests.peers.mesh import PeerMesh, Service, sni_of
from tests.peers.node_process import Node
from tests.peers.patience import until
from tests.peers.programs import curl
from tests.peers.tcp_apps import TCPApplication

FOREIGN = "spiffe://elsewhere.example/ns/default/sa/envoy"
"""Of another trust domain than the root that signed it."""
VERSIONS = {"HTTP": "1.1", "HTTP2": "2.0"}
PROTOCOLS = (*VERSIONS, "TCP")
PATIENCE = 30.0
SIZE = 2 << 20


@dataclass(frozen=True, slots=True)
class Ports:
    """Plaintext ports: of Envoy where it is the client, of ours where it is the server."""

    client: dict[str, int]
    server: dict[str, Service]


@pytest.fixture(scope="module")
def envoy(mesh: PeerMesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    one = Envoy(tmp_path_factory.mktemp("envoy"), mesh.authority)
    yield one
    one.close()


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """A TCP application that says everything again, once all was said."""

    def again(conn: socket.socket) -> None:
        conn.sendall(everything(conn))

    application = TCPApplication(again)
    yield application.port
    application.close()


def everything(conn: socket.socket) -> bytes:
    return b"".join(iter(lambda: conn.recv(65536), b""))


@pytest.fixture(scope="module")
def ports(mesh: PeerMesh, envoy: Envoy, node: Node, echo: int) -> Ports:
    """Every combination at once: an Envoy takes its listeners when it starts."""
    me = identity("envoy")
    apps = {p: int(node.ask("http_serve", version=int(v[0]))["port"]) for p, v in VERSIONS.items()}
    apps["TCP"] = echo
    ours = {p: mesh.add(f"ours-{p.lower()}", p, port) for p, port in apps.items()}
    client, server = {}, {}

    def towards(name: str, service: Service, own: str = me, expected: str = "") -> None:
        wanted = expected or identity(service.name)
        sni = sni_of(service.name)
        client[name] = envoy.client(name, service.protocol, mesh.mesh_port, sni, own, wanted)

    def behind(name: str, protocol: str, own: str = me, expected: str = "") -> None:
        wanted, sni = expected or identity("caller"), sni_of(name)
        port = envoy.server(name, protocol, apps[protocol], sni, own, wanted)
        endpoint = Endpoint("127.0.0.1", port, sni)
        server[name] = mesh.add(name, protocol, 0, accounts=(me,), endpoint=endpoint)

    for protocol, service in ours.items():
        towards(protocol, service)
        towards(f"foreign-{protocol}", service, own=FOREIGN)
        towards(f"picky-{protocol}", service, expected=identity("somebody-else"))
        behind(f"envoy-{protocol.lower()}", protocol)
        behind(f"impostor-{protocol.lower()}", protocol, own=identity("impostor"))
        behind(f"strict-{protocol.lower()}", protocol, expected=identity("somebody-else"))
    envoy.start()
    return Ports(client, server)


def is_served(folder: Path, protocol: str, port: int) -> bool:
    """Whether anything of the application comes back."""
    if protocol != "TCP":
        return curl(folder, f"http://127.0.0.1:{port}/facts").code == 200
    return said_again(port, b"anybody?") == b"anybody?"


def said_again(port: int, data: bytes) -> bytes:
    """What the echo makes of it, half-closed by us; b"" where it is reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as conn:
        try:
            conn.sendall(data)
            conn.shutdown(socket.SHUT_WR)
            return everything(conn)
        except ConnectionError:
            return b""


def check(folder: Path, port: int, version: str, caller: str) -> None:
    """A request with a body, and who the application is told has called."""
    address = f"http://127.0.0.1:{port}"
    told = json.loads(curl(folder, f"{address}/facts").body)
    assert told["version"] == version
    assert f"URI={caller}" in told["headers"]["x-forwarded-client-cert"]
    body = bytes(range(256)) * (SIZE // 256)
    (folder / "up").write_bytes(body)
    got = json.loads(curl(folder, "--data-binary", f"@{folder}/up", f"{address}/sum").body)
    assert got["sha256"] == hashlib.sha256(body).hexdigest()
    assert len(curl(folder, f"{address}/bytes/{SIZE}").body) == SIZE


@pytest.mark.parametrize("protocol", VERSIONS)
def test_an_envoy_calls_a_service_of_the_mesh(ports: Ports, protocol: str, tmp_path: Path) -> None:
    check(tmp_path, ports.client[protocol], VERSIONS[protocol], identity("envoy"))


@pytest.mark.parametrize("protocol", VERSIONS)
def test_the_mesh_calls_a_service_behind_an_envoy(
    ports: Ports, protocol: str, tmp_path: Path
) -> None:
    port = ports.server[f"envoy-{protocol.lower()}"].local
    address = f"http://127.0.0.1:{port}"
    told = json.loads(curl(tmp_path, f"{address}/facts").body)
    assert told["version"] == VERSIONS[protocol]
    assert len(curl(tmp_path, f"{address}/bytes/{SIZE}").body) == SIZE


def test_an_envoy_carries_tcp_into_the_mesh_and_out_of_it(ports: Ports) -> None:
    """2 MB and the half-close, each way; without a preface, its source is unknown."""
    body = bytes(range(256)) * (SIZE // 256)
    assert said_again(ports.client["TCP"], body) == body
    assert said_again(ports.server["envoy-tcp"].local, body) == body


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_envoy_of_another_trust_domain_is_refused(
    mesh: PeerMesh, ports: Ports, protocol: str, tmp_path: Path
) -> None:
    reason = "unknown_trust_domain"
    before = mesh.count("far", "meshd_refusals_total", reason=reason)
    assert not is_served(tmp_path, protocol, ports.client[f"foreign-{protocol}"])
    refused = lambda: mesh.count("far", "meshd_refusals_total", reason=reason)  # noqa: E731
    until(lambda: refused() > before, "the refusal is counted")
    assert reason in mesh.log("far") and "elsewhere.example" in mesh.log("far")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_envoy_that_expects_somebody_else_refuses_us(
    envoy: Envoy, ports: Ports, protocol: str, tmp_path: Path
) -> None:
    name = f"picky-{protocol}"
    assert not is_served(tmp_path, protocol, ports.client[name])
    assert envoy.stat(f"cluster.{name}.ssl.fail_verify_san") > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_impostor_behind_an_envoy_is_refused(
    mesh: PeerMesh, ports: Ports, protocol: str, tmp_path: Path
) -> None:
    """Right root, right address, wrong account: no request leaves, and we say whose it was."""
    name = f"impostor-{protocol.lower()}"
    assert not is_served(tmp_path, protocol, ports.server[name].local)
    until(lambda: any(e["route_name"] == f"{name}-route" for e in mesh.entries("near")), "logged")
    entry = next(e for e in mesh.entries("near") if e["route_name"] == f"{name}-route")
    assert entry["response_flags"] == "UF"
    assert identity("impostor") in entry["upstream_transport_failure_reason"]
    reason = {"reason": "secure_naming"}
    assert mesh.count("near", "meshd_upstream_connect_failures_total", **reason) > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_envoy_that_admits_somebody_else_refuses_us(
    mesh: PeerMesh, envoy: Envoy, ports: Ports, protocol: str, tmp_path: Path
) -> None:
    name = f"strict-{protocol.lower()}"
    assert not is_served(tmp_path, protocol, ports.server[name].local)
    assert envoy.stat(f"listener.127.0.0.1_{ports.server[name].endpoint.port}.ssl.fail_verify_san")
    until(lambda: any(e["route_name"] == f"{name}-route" for e in mesh.entries("near")), "logged")
    entry = next(e for e in mesh.entries("near") if e["route_name"] == f"{name}-route")
    assert entry["response_flags"] in ("UF", "UC")
