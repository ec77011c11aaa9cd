"""What the tests of limits share: knobs, counters, and a gateway made of the near host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hosts import Hosts, get, read_answer
from rig import identity, listen

from meshd import counters
from meshkit.snapshot.types import EdgeServer, ListenerSpec


def count(hosts: Hosts, name: str, side: str = "near", **labels: str) -> int:
    """The sum of a metric's series that have these labels."""
    rig = getattr(hosts, side)
    return sum(
        sum(series.values)
        for series in counters.read(rig.folder / f"counters.{rig.index}")
        if series.name == name and labels.items() <= dict(series.labels).items()
    )


def hits(hosts: Hosts, side: str = "near") -> dict[str, int]:
    """limit → how often it was hit."""
    rig = getattr(hosts, side)
    return {
        dict(series.labels)["limit"]: series.values[0]
        for series in counters.read(rig.folder / f"counters.{rig.index}")
        if series.name == "meshd_limit_hits_total"
    }


def limit(hosts: Hosts, side: str = "near", /, **knobs: int) -> None:
    """Give one host these limits (snake_case) from now on."""
    hosts.configs[side] = replace(hosts.configs[side], limits=knobs)
    if side == "near":
        hosts.apply(hosts.outbound())
    else:
        hosts.revision += 1
        frame = hosts.far.configure(hosts.configs["far"], revision=str(hosts.revision))
        assert frame.type == "ack"


def ended(conn: socket.socket) -> bytes:
    """All that comes until the end, or a reset."""
    received = b""
    try:
        while data := conn.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def served(conn: socket.socket) -> bytes:
    """Head of the answer to one more request on a connection."""
    conn.sendall(get())
    return read_answer(conn)[0]


@pytest.fixture
def edge(hosts: Hosts) -> Iterator[Hosts]:
    """The near host as a gateway: `proxy` is its edge port, under a gateway's limits."""
    sock = listen()
    spec = ListenerSpec("edge", "edge", "127.0.0.1", sock.getsockname()[1])
    hosts.near.listener(spec, sock)
    config = hosts.configs["near"]
    hosts.configs["near"] = replace(
        config,
        listeners=(*config.listeners, spec),
        edge=(EdgeServer("edge", "default", ("*",)),),
        edge_identity=identity("caller"),
    )
    host = hosts.outbound()
    hosts.apply(replace(host, ports={0: host.ports[80]}))
    hosts.proxy = spec.port
    yield hosts
    sock.close()
