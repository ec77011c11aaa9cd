"""gRPC as its own libraries speak it: grpcio and grpc-js, each as client and as server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from tests.peers.grpc_client import SCENARIOS, Document, Target
from tests.peers.grpc_service import GrpcioServer
from tests.peers.mesh import PeerMesh, Service
from tests.peers.node_process import Node
from tests.peers.patience import until

MIB = 1 << 20
OK, CANCELLED, DEADLINE_EXCEEDED, NOT_FOUND, ABORTED = 0, 1, 4, 5, 10
PEERS = ("grpcio", "grpc-js")
WAYS = (
    *(("mesh", client, server) for client in PEERS for server in PEERS),
    ("edge", "grpcio", "grpc-js"),
    ("edge-tls", "grpcio", "grpc-js"),
    ("edge-tls", "grpc-js", "grpcio"),
)
_marks = itertools.count()


@pytest.fixture(scope="module")
def services(mesh: PeerMesh, node: Node) -> Iterator[dict[str, Service]]:
    """A gRPC service of each library."""
    server = GrpcioServer()
    ports = {"grpcio": server.port, "grpc-js": int(node.ask("grpc_serve")["port"])}
    yield {name: mesh.add(name, "GRPC", port) for name, port in ports.items()}
    server.close()


@dataclass(frozen=True, slots=True)
class Peers:
    """A client, the way that its calls take, and the server that they reach."""

    mesh: PeerMesh
    way: str
    client: str
    service: Service
    node: Node

    @property
    def target(self) -> Target:
        if self.way == "mesh":
            return Target(f"127.0.0.1:{self.service.local}")
        if self.way == "edge":
            return Target(f"127.0.0.1:{self.mesh.edge_http}", self.service.edge_host)
        address = f"127.0.0.1:{self.mesh.edge_https}"
        return Target(address, self.service.edge_host, self.mesh.outside)

    def run(self, scenario: str, **args: Any) -> Document:
        if self.client == "grpcio":
            return SCENARIOS[scenario](self.target, **args)
        target = asdict(self.target)
        return self.node.ask("grpc_call", scenario=scenario, target=target, args=args)

    def wait_until_cancelled(self, mark: str) -> None:
        seen: Callable[[], bool] = lambda: self.run("seen", mark=mark)["seen"] == "cancelled"  # noqa: E731
        until(seen, "the server saw the cancellation")


@pytest.fixture(params=WAYS, ids="-".join)
def peers(
    request: pytest.FixtureRequest, mesh: PeerMesh, services: dict[str, Service], node: Node
) -> Peers:
    way, client, server = request.param
    return Peers(mesh, way, client, services[server], node)


def a_mark() -> str:
    return f"mark {next(_marks)}"


@pytest.mark.parametrize("size", [0, 1000, 4 * MIB])
def test_unary_calls_with_metadata_and_trailers(peers: Peers, size: int) -> None:
    answer = peers.run("unary", size=size)
    assert answer["same"]
    assert answer["said"] == "a value; with, signs"
    assert answer["trailers"]["x-last"] == "trailer"
    assert answer["trailers"]["x-last-bin"] == bytes(range(32)).hex()


@pytest.mark.parametrize(("messages", "size"), [(300, 1000), (2, 4 * MIB), (0, 0)])
def test_server_streaming(peers: Peers, messages: int, size: int) -> None:
    answer = peers.run("server_stream", messages=messages, size=size)
    assert answer == {"messages": messages, "good": True}


@pytest.mark.parametrize(("messages", "size"), [(300, 1000), (2, 4 * MIB), (0, 0)])
def test_client_streaming(peers: Peers, messages: int, size: int) -> None:
    answer = peers.run("client_stream", messages=messages, size=size)
    assert answer == {"answer": f"{messages} {messages * size}"}


def test_bidirectional_ping_pong(peers: Peers) -> None:
    """No message waits for a buffer to fill or for the other side's end."""
    assert peers.run("ping_pong", rounds=50) == {"good": 50}


def test_bidirectional_streams_interleaved(peers: Peers) -> None:
    assert peers.run("interleaved", streams=10, messages=50) == {"good": 10}


def test_a_status_without_a_message_keeps_its_details_and_trailers(peers: Peers) -> None:
    details = "nicht gefunden: 100 % ü\n"
    answer = peers.run("fail", after=0, code=NOT_FOUND, details=details)
    assert answer == {"messages": 0, "code": NOT_FOUND, "details": details, "why": "as planned"}


def test_a_server_that_ends_a_stream_with_an_error(peers: Peers) -> None:
    answer = peers.run("fail", after=3, code=ABORTED, details="enough")
    assert answer == {"messages": 3, "code": ABORTED, "details": "enough", "why": "as planned"}


def test_a_deadline_ends_the_call_on_both_sides(peers: Peers) -> None:
    mark = a_mark()
    assert peers.run("deadline", mark=mark, seconds=0.3) == {"code": DEADLINE_EXCEEDED}
    peers.wait_until_cancelled(mark)


def test_a_cancellation_by_the_client_reaches_the_server(peers: Peers) -> None:
    mark = a_mark()
    assert peers.run("cancel", mark=mark) == {"code": CANCELLED}
    peers.wait_until_cancelled(mark)


def test_a_client_that_leaves_a_stream_goes_on_with_its_connection(peers: Peers) -> None:
    assert peers.run("leave", size=100_000) == {"got": 100_000, "next": "next"}


def test_many_channels_at_once(peers: Peers) -> None:
    assert peers.run("many", channels=30) == {"good": 30}


@pytest.mark.parametrize("client", PEERS)
def test_a_quiet_stream_under_keepalive_pings(
    mesh: PeerMesh, services: dict[str, Service], node: Node, client: str
) -> None:
    """An unanswered ping would end the connection after a second."""
    peers = Peers(mesh, "mesh", client, services["grpc-js"], node)
    assert peers.run("keepalive", seconds=1.6) == {"before": "before", "after": "after"}


@pytest.mark.parametrize("code", range(1, 17))
def test_every_status_code(
    mesh: PeerMesh, services: dict[str, Service], node: Node, code: int
) -> None:
    peers = Peers(mesh, "mesh", "grpcio", services["grpc-js"], node)
    answer = peers.run("fail", after=0, code=code, details="said")
    assert (answer["code"], answer["details"]) == (code, "said")


def test_the_mesh_says_grpc_status_and_messages(
    mesh: PeerMesh, services: dict[str, Service], node: Node
) -> None:
    """Requests by their gRPC status, and how many messages went each way."""
    service = services["grpc-js"]
    peers = Peers(mesh, "mesh", "grpcio", service, node)
    ours = {"destination_service": service.host, "request_protocol": "grpc"}

    def counted(name: str, **labels: str) -> int:
        return mesh.count("near", name, **ours, **labels)

    before = [counted("istio_requests_total", grpc_response_status=code) for code in ("0", "5")]
    said = counted("istio_request_messages_total"), counted("istio_response_messages_total")
    assert peers.run("server_stream", messages=7, size=10)["messages"] == 7
    peers.run("fail", after=0, code=NOT_FOUND, details="")

    def both() -> bool:
        now = [counted("istio_requests_total", grpc_response_status=code) for code in ("0", "5")]
        return now == [before[0] + 1, before[1] + 1]

    until(both, "both calls are counted by their status")
    heard = counted("istio_request_messages_total"), counted("istio_response_messages_total")
    assert (heard[0] - said[0], heard[1] - said[1]) == (2, 7)


def test_a_service_that_is_away_is_unavailable_with_the_reason(mesh: PeerMesh, node: Node) -> None:
    """What the mesh answers itself is a gRPC status, not an HTTP error."""
    mesh.add("away", "GRPC", 1)
    for client in PEERS:
        peers = Peers(mesh, "mesh", client, mesh.services["away"], node)
        answer = peers.run("fail", after=0, code=NOT_FOUND, details="")
        assert answer["code"] == 14 and answer["details"], answer
