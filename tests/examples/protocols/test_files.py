"""The example is read without a word of complaint, and routes what its comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit.model.check import Known, check
from meshkit.model.load import load_files, load_service_files
from meshkit.model.resources import LocalService, Resource
from meshkit.names import MeshSettings, ServiceName
from meshkit.routing.compile import Compiler
from meshkit.routing.inputs import GatewayParts, HostParts, Inputs, NamedPort, Naming
from meshkit.snapshot.codec import decode_host, decode_outbound
from meshkit.snapshot.types import OutboundHost, Snapshot

FOLDER = Path(__file__).parents[3] / "examples" / "protocols"


def texts(folder: Path) -> list[tuple[str, str]]:
    return [(str(file), file.read_text()) for file in sorted(folder.glob("*.yaml"))]


@pytest.fixture
def services() -> tuple[LocalService, ...]:
    loaded = load_service_files(texts(FOLDER / "services.d"))
    assert loaded.problems == []
    return loaded.services


@pytest.fixture
def resources(services: tuple[LocalService, ...]) -> tuple[Resource, ...]:
    loaded = load_files(texts(FOLDER))
    known = {
        ServiceName(s.namespace, s.name): {p.port: p.protocol for p in s.ports} for s in services
    }
    assert loaded.problems == []
    assert check(loaded.resources, Known(MeshSettings(), known, complete=True)) == []
    return tuple(loaded.resources)


def compiled(
    services: tuple[LocalService, ...], resources: tuple[Resource, ...], *, gateway: bool
) -> Snapshot:
    naming = {
        ServiceName(s.namespace, s.name): Naming(
            (f"spiffe://cluster.local/ns/default/sa/{s.name}",),
            tuple(NamedPort(p.name, p.port, p.protocol) for p in s.ports),
        )
        for s in services
    }
    edge = GatewayParts({"istio": "ingressgateway"}, "istio-system", "mesh-gateway")
    host = (
        HostParts("edge", "10.0.0.1", gateway=edge)
        if gateway
        else HostParts(
            "vm1", "10.0.0.2", 15443, services=services, uids={s.user: 1 for s in services}
        )
    )
    compiler = Compiler()
    snapshot = compiler.compile(Inputs(host, resources=resources, naming=naming))
    assert compiler.problems == ()
    return snapshot


def host(snapshot: Snapshot, scope: str, name: str) -> OutboundHost:
    return decode_outbound(snapshot.blobs[snapshot.scopes[scope][name]])


def test_on_a_host(services: tuple[LocalService, ...], resources: tuple[Resource, ...]) -> None:
    snapshot = compiled(services, resources, gateway=False)
    config = decode_host(snapshot.blobs[snapshot.host])
    local = {s.upstream[0]: s.protocol for s in config.listeners if s.upstream}
    assert local == {"ledger.default.svc.cluster.local": "TCP", "partner.example.com": "TLS"}
    (route,) = host(snapshot, "default", "ledger.default.svc.cluster.local").tcp[5432]
    assert [d.weight for d in route.destinations] == [90, 10]
    orders = host(snapshot, "default", "orders.default.svc.cluster.local")
    assert [c.protocol for c in orders.clusters.values()] == ["GRPC"]
    assert [r.name for r in orders.ports[50051]] == ["place", "rest"]


def test_at_the_edge(services: tuple[LocalService, ...], resources: tuple[Resource, ...]) -> None:
    snapshot = compiled(services, resources, gateway=True)
    config = decode_host(snapshot.blobs[snapshot.host])
    assert {s.port: s.protocol for s in config.listeners} == {8443: "TLS", 15432: "TCP"}
    gateway = "gateway|default/protocols"
    passed = snapshot.scopes[f"{gateway}|8443|0"]
    assert set(passed) == {"vault.example.org", "*.vault.example.org"}
    assert host(snapshot, f"{gateway}|8443|1", "orders.example.org").ports[0]
    (route,) = host(snapshot, f"{gateway}|15432|2", "*").tcp[0]
    assert route.destinations[0].cluster.startswith("outbound|5432||ledger.")
