"""Every protocol through a whole mesh, as an operator declares it: gRPC, WebSocket, Redis, TLS.

Host a calls, host b serves, the gateway is in front; `tests/peers` has the many
cases, this shows that declarations, discovery and policy lead there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.mesh import GENEROUS, Mesh, mesh
from tests.e2e.test_edge_real import certificate
from tests.meshd.agent.rig import Host, until
from tests.parts.find import program
from tests.peers.grpc_client import SCENARIOS, Target
from tests.peers.grpc_service import GrpcioServer
from tests.peers.programs import run
from tests.peers.tcp_apps import free_port
from tests.peers.websocket_peer import Target as WebSocketTarget
from tests.peers.websocket_peer import WebsocketsServer, echoes

CHAT, WEB, CACHE, BANK = 9000, 9001, 6379, 9443
HTTP, HTTPS = 8080, 8443
POLICY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 8080, name: http2, protocol: HTTP2}}
    hosts: ["chat.example", "web.example"]
  - port: {{number: 8443, name: https, protocol: HTTPS}}
    hosts: ["chat.example"]
    tls: {{mode: SIMPLE, serverCertificate: {folder}/chat.pem, privateKey: {folder}/chat.key}}
  - port: {{number: 6379, name: tcp, protocol: TCP}}
    hosts: ["*"]
  - port: {{number: 9443, name: tls, protocol: TLS}}
    hosts: ["bank.example"]
    tls: {{mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: chat}}
spec:
  hosts: [chat.example]
  gateways: [edge]
  http: [{{route: [{{destination: {{host: chat, port: {{number: 9000}}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: [web.example]
  gateways: [edge]
  http: [{{route: [{{destination: {{host: web, port: {{number: 9001}}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: cache}}
spec:
  hosts: ["*"]
  gateways: [edge]
  tcp:
  - match: [{{port: 6379}}]
    route: [{{destination: {{host: cache, port: {{number: 6379}}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bank}}
spec:
  hosts: [bank.example]
  gateways: [edge]
  tls:
  - match: [{{port: 9443, sniHosts: [bank.example]}}]
    route: [{{destination: {{host: bank, port: {{number: 9443}}}}}}]
"""


@dataclass
class Protocols:
    mesh: Mesh
    upstreams: dict[str, int]
    """Service → the caller's explicit local port on host a."""

    def address(self, way: str, service: str, edge_port: int = 0) -> str:
        if way == "mesh":
            return f"127.0.0.1:{self.upstreams[service]}"
        return f"{self.mesh.address(4)}:{edge_port}"


def declare(host: Host, name: str, port: int, target: int, protocol: str) -> None:
    ports = [{"name": "main", "port": port, "targetPort": target, "protocol": protocol}]
    host.declare(name, port, target, ports=ports)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path, port = program("redis-server"), free_port()
    assert path is not None, "no redis-server: run 'python3 tests/parts/install.py'"
    folder = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([path, *options], stdout=subprocess.DEVNULL) as process:
        yield port
        process.terminate()


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """An application that ends TLS itself: openssl's own test server."""
    folder, port = tmp_path_factory.mktemp("bank"), free_port()
    certificate(folder, "bank")
    path = program("openssl")
    assert path is not None
    pair = ["-cert", str(folder / "bank.pem"), "-key", str(folder / "bank.key")]
    command = [path, "s_server", "-accept", f"127.0.0.1:{port}", *pair, "-www", "-quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield port
        process.terminate()


@pytest.fixture(scope="module")
def protocols(
    tmp_path_factory: pytest.TempPathFactory, redis: int, bank: int
) -> Iterator[Protocols]:
    chat, web = GrpcioServer(), WebsocketsServer()
    served = {
        "chat": (CHAT, chat.port, "GRPC"),
        "web": (WEB, web.port, "HTTP"),
        "cache": (CACHE, redis, "REDIS"),
        "bank": (BANK, bank, "TLS"),
    }
    with mesh(tmp_path_factory.mktemp("protocols")) as whole:
        a = whole.join("a", 1, "default/shop")
        upstreams = {name: free_port() for name in served}
        listens: list[dict[str, Any]] = [
            {"listen": f"127.0.0.1:{upstreams[name]}", "host": name, "port": port}
            for name, (port, _, _) in served.items()
        ]
        a.declare("shop", 9100, free_port(), ports=[], upstreams=listens)
        b = whole.join("b", 2, *(f"default/{name}" for name in served))
        for name, (port, target, protocol) in served.items():
            declare(b, name, port, target, protocol)
        whole.join("edge", 4, "istio-system/mesh-gateway", module="gateway", bind=whole.address(4))
        certificate(whole.folder, "chat")
        whole.start()
        whole.apply(POLICY.format(folder=whole.folder))
        found = Protocols(whole, upstreams)
        ready = lambda: redis_cli(found.address("mesh", "cache"), "ping") == b"PONG\n"  # noqa: E731
        until(ready, "the mesh serves", GENEROUS)
        yield found
    chat.close()
    web.close()


def redis_cli(address: str, *arguments: str) -> bytes:
    host, _, port = address.rpartition(":")
    return run("redis-cli", "-h", host, "-p", port, *arguments).out


WAYS = ("mesh", "edge")


@pytest.mark.parametrize("way", WAYS)
def test_grpc(protocols: Protocols, way: str) -> None:
    target = Target(protocols.address(way, "chat", HTTP), "chat.example" if way == "edge" else "")
    check_grpc(target)


def test_grpc_over_tls_at_the_gateway(protocols: Protocols) -> None:
    roots = (protocols.mesh.folder / "chat.pem").read_text()
    check_grpc(Target(protocols.address("edge", "chat", HTTPS), "chat.example", roots))


def check_grpc(target: Target) -> None:
    assert SCENARIOS["unary"](target, size=100_000)["same"]
    assert SCENARIOS["ping_pong"](target, rounds=20) == {"good": 20}
    assert SCENARIOS["fail"](target, after=1, code=5, details="no")["code"] == 5


@pytest.mark.parametrize("way", WAYS)
def test_websocket(protocols: Protocols, way: str) -> None:
    address = protocols.address(way, "web", HTTP)
    host, _, port = address.rpartition(":")
    named = "web.example" if way == "edge" else "web"
    assert echoes(WebSocketTarget(int(port), named, address=host), compress=True)["same"] == 8


@pytest.mark.parametrize("way", WAYS)
def test_redis(protocols: Protocols, way: str) -> None:
    address = protocols.address(way, "cache", CACHE)
    assert redis_cli(address, "set", way, "value") == b"OK\n"
    assert redis_cli(address, "get", way) == b"value\n"


@pytest.mark.parametrize("way", WAYS)
def test_tls_of_the_applications_own(protocols: Protocols, way: str) -> None:
    address = protocols.address(way, "bank", BANK)
    said = run("openssl", "s_client", "-connect", address, "-servername", "bank.example")
    assert "subject=CN = bank.example" in said.text, said.text


@pytest.mark.parametrize("host", ["a", "b"])
def test_the_metrics_tell_protocols_apart(protocols: Protocols, host: str) -> None:
    test_grpc(protocols, "mesh")
    test_redis(protocols, "mesh")
    metric = protocols.mesh.metric
    status = {"request_protocol": "grpc", "grpc_response_status": "5"}
    until(lambda: metric(host, "istio_requests_total", **status), "gRPC by its status", GENEROUS)
    until(lambda: metric(host, "istio_tcp_connections_opened_total"), "connections", GENEROUS)


def test_meshctl_shows_protocols_and_tcp_routes(protocols: Protocols) -> None:
    text = protocols.mesh.ctl("proxy", "config", "a", "clusters").out
    for word in ("GRPC", "REDIS", "TLS"):
        assert word in text, text
