"""What `meshctl proxy config` shows of protocols and of routes of whole connections."""

from __future__ import annotations

from typing import Any

import pytest

from meshd.agent.answers import answer
from meshkit.names import MeshSettings
from meshkit.snapshot.codec import content_hash, encode
from meshkit.snapshot.types import (
    ADDRESSES,
    AddressTable,
    Cluster,
    Destination,
    EdgeServer,
    Endpoint,
    HostConfig,
    ListenerSpec,
    OutboundHost,
    Route,
    Snapshot,
    TCPRoute,
)

TO = (Destination("outbound|443||db", 3), Destination("outbound|443||other", 1))
DB = OutboundHost(
    "db",
    "db",
    "default",
    {7000: (Route("default", (), TO[:1], origin="default"),)},
    {
        "outbound|443||db": Cluster(
            "outbound|443||db", "RANDOM", (Endpoint("h", 1),), (), 1.0, "TLS"
        )
    },
    {
        443: (TCPRoute("", ("a.x", "*.x"), TO, "VirtualService/default/db f:3"),),
        5432: (TCPRoute("default", (), TO[:1], "default"),),
        7000: (TCPRoute("default", (), TO[:1], "default"),),
    },
)
TABLE = AddressTable(
    {"10.0.0.1:5432": ("db", 5432), "*:443": ("", 443)}, (("10.1.0.0/16", 5432, "db", 5432),)
)
HOST = HostConfig(
    "vm1",
    MeshSettings(),
    (
        ListenerSpec("mesh", "mesh", "10.0.0.9", 15443),
        ListenerSpec("l", "local", "127.0.0.1", 1, upstream=("db", 443), protocol="TLS"),
        ListenerSpec("edge", "edge", "0.0.0.0", 443, protocol="TLS"),
    ),
    (),
    (
        EdgeServer("edge", "s", ("*.x",), protocol="TCP", passthrough=True),
        EdgeServer("edge", "t", ("a", "b"), "cert", protocol="TCP"),
        EdgeServer("edge", "u", ("c",), "cert"),
    ),
)


@pytest.fixture
def snapshot() -> Snapshot:
    host, db, table = encode(HOST), encode(DB), encode(TABLE)
    hashes = [content_hash(data) for data in (host, db, table)]
    blobs = dict(zip(hashes, (host, db, table), strict=True))
    return Snapshot("r", hashes[0], {"default": {"db": hashes[1], ADDRESSES: hashes[2]}}, blobs)


def rows(what: str, snapshot: Snapshot) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer(what, snapshot, {})[what]
    return found


def test_routes_of_connections_stand_beside_those_of_requests(snapshot: Snapshot) -> None:
    found = [(r["port"], r["protocol"], r["match"]) for r in rows("routes", snapshot)]
    assert found == [
        (7000, "HTTP", []),
        (443, "TLS", ["sni a.x or sni *.x"]),
        (5432, "TCP", ["always"]),
        (7000, "TCP", ["not HTTP"]),
    ]
    tls = rows("routes", snapshot)[1]
    assert tls["destinations"] == {"outbound|443||db": 3, "outbound|443||other": 1}
    assert tls["origin"] == "VirtualService/default/db f:3"
    assert {frozenset(row) for row in rows("routes", snapshot)} == {frozenset(tls)}


def test_clusters_and_endpoints_show_their_protocol(snapshot: Snapshot) -> None:
    assert rows("clusters", snapshot)[0]["protocol"] == "TLS"
    assert rows("endpoints", snapshot)[0]["protocol"] == "TLS"


def test_listeners_show_what_they_take_and_their_servers(snapshot: Snapshot) -> None:
    mesh, local, edge = rows("listeners", snapshot)
    assert (mesh["protocol"], local["protocol"]) == ("by ALPN", "TLS")
    assert local["servers"] == []
    assert edge["servers"] == [
        *("*.x (TLS passed through)", "a,b (TCP in TLS)", "c (HTTP in TLS)"),
    ]


def test_addresses_of_captured_connections(snapshot: Snapshot) -> None:
    assert [(r["address"], r["host"], r["port"]) for r in rows("addresses", snapshot)] == [
        ("*:443", "(by server name)", 443),
        ("10.0.0.1:5432", "db", 5432),
        ("10.1.0.0/16:5432", "db", 5432),
    ]
