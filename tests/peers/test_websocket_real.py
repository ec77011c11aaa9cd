"""WebSocket as its own libraries speak it: `websockets` and `ws`, client and server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from tests.peers.mesh import PeerMesh, Service
from tests.peers.node_process import Node
from tests.peers.patience import until
from tests.peers.websocket_peer import (
    SCENARIOS,
    SUBPROTOCOL,
    Document,
    Target,
    WebsocketsServer,
    ended,
)

PEERS = ("websockets", "ws")
WAYS = (
    *(("mesh", client, server) for client in PEERS for server in PEERS),
    ("edge", "websockets", "ws"),
    ("edge", "ws", "websockets"),
    ("edge-tls", "websockets", "ws"),
    ("edge-tls", "ws", "websockets"),
)
ABNORMAL = "1006"
"""What a library reports where no close frame came (RFC 6455, 7.1.5)."""


@pytest.fixture(scope="module")
def services(mesh: PeerMesh, node: Node) -> Iterator[dict[str, Service]]:
    server = WebsocketsServer()
    ports = {"websockets": server.port, "ws": int(node.ask("websocket_serve")["port"])}
    yield {name: mesh.add(name, "HTTP", port) for name, port in ports.items()}
    server.close()


@dataclass(frozen=True, slots=True)
class Peers:
    """A client, the way that its connections take, and the server that they reach."""

    mesh: PeerMesh
    way: str
    client: str
    service: Service
    node: Node

    @property
    def target(self) -> Target:
        if self.way == "mesh":
            return Target(self.service.local)
        if self.way == "edge":
            return Target(self.mesh.edge_http, self.service.edge_host)
        return Target(self.mesh.edge_https, self.service.edge_host, self.mesh.outside)

    def run(self, scenario: str, **args: Any) -> Document:
        if self.client == "websockets":
            return SCENARIOS[scenario](self.target, **args)
        target = asdict(self.target)
        return self.node.ask("websocket_call", scenario=scenario, target=target, args=args)

    def wait_until_ended(self, how: str) -> None:
        direct = Target(self.service.target)
        until(lambda: ended(direct) == how, f"the server's connection ended with {how}")


@pytest.fixture(params=WAYS, ids="-".join)
def peers(
    request: pytest.FixtureRequest, mesh: PeerMesh, services: dict[str, Service], node: Node
) -> Peers:
    way, client, server = request.param
    return Peers(mesh, way, client, services[server], node)


@pytest.mark.parametrize("compress", [True, False])
def test_messages_subprotocol_and_compression_pass_through(peers: Peers, compress: bool) -> None:
    assert peers.run("echoes", compress=compress) == {
        "same": 8,
        "extensions": ["permessage-deflate"] if compress else [],
        "subprotocol": SUBPROTOCOL,
    }


def test_messages_of_16_megabytes_both_ways(peers: Peers) -> None:
    assert peers.run("big", size=16 << 20) == {"same": True}


def test_fragments_with_a_ping_between_them_stay_fragments(peers: Peers) -> None:
    answer = peers.run("fragmented")
    assert answer["same"] and answer["frames"] >= 10


def test_the_clients_close_code_and_reason_arrive(peers: Peers) -> None:
    assert peers.run("client_closes", code=4001, reason="bye ü") == {"heard": 4001}
    peers.wait_until_ended("4001 bye ü")


def test_the_servers_close_code_and_reason_arrive(peers: Peers) -> None:
    answer = peers.run("server_closes", code=4002, reason="go away")
    assert answer == {"code": 4002, "reason": "go away"}


def test_pings_are_answered_by_the_other_end(peers: Peers) -> None:
    assert peers.run("pings") == {"client": True, "server": "pong"}


def test_a_client_that_breaks_off_is_noticed_by_the_server(peers: Peers) -> None:
    peers.run("breaks_off")
    peers.wait_until_ended(ABNORMAL)


def test_an_upgrade_is_logged_with_its_bytes(
    mesh: PeerMesh, services: dict[str, Service], node: Node
) -> None:
    """101, and what went through the tunnel, once it has ended."""
    service = services["ws"]
    peers = Peers(mesh, "mesh", "websockets", service, node)

    def logged() -> list[dict[str, Any]]:
        return [e for e in mesh.entries("near") if e["path"] == "/echo"]

    def of_this() -> list[dict[str, Any]]:
        # The line of an earlier test's tunnel may still be on its way.
        both = ("bytes_received", "bytes_sent")
        return [e for e in logged() if all(100_000 < e[name] < 200_000 for name in both)]

    peers.run("big", size=100_000)
    until(lambda: len(of_this()) == 1, "the tunnel is logged")
    entry = of_this()[0]
    assert entry["response_code"] == 101
