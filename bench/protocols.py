"""What is measured of each protocol, with which peers, and in which shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.figures import BASELINE, Quantity
from bench.peers import envoy, haproxy, mesh, nghttpx, nginx
from bench.peers.running import Running
from bench.processes import Processes

Start = Callable[[Path, int, Processes, str], Running]
"""Of a folder, the application's port, and a protocol's name."""

OURS = "baremesh"
PEERS: Mapping[str, Start] = {
    OURS: mesh.start,
    BASELINE: envoy.start,
    "haproxy": haproxy.start,
    "nginx": nginx.start,
    "nghttpx": nghttpx.start,
}

MOST = 512
"""Connections, and streams on each, of one load."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Connections of the load generator, and streams on each."""

    connections: int
    streams: int = 1

    def __str__(self) -> str:
        text = str(self.connections)
        return text if self.streams == 1 else f"{text}x{self.streams}"


def _counts(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) <= MOST


def shapes(text: str) -> list[Shape]:
    """``8,1x1,8x16``: connections, or connections and streams.  Raises ValueError."""
    found = []
    for part in text.split(","):
        numbers = part.split("x")
        if len(numbers) > 2 or not all(map(_counts, numbers)):
            raise ValueError(
                f"{part!r}: give numbers from 1 to {MOST}, such as 8, or 8x16 with streams"
            )
        found.append(Shape(*map(int, numbers)))
    return found


@dataclass(frozen=True, slots=True)
class Column:
    """One quantity of a table: its median and spread over the rounds."""

    title: str
    quantity: Quantity
    digits: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    shapes: str
    rounds: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Protocol:
    name: str
    peers: tuple[str, ...]
    plan: Plan
    quick: Plan
    """The same within 50 s, of us and the baseline."""
    columns: tuple[Column, ...]
    ratios: tuple[Column, ...]
    multiplexed: bool = False
    """Whether a connection has streams."""


_RPS = Column("requests/s", "rps", 0)
_P50, _P99 = Column("p50 ms", "p50_ms", 2), Column("p99 ms", "p99_ms", 2)
_CPU = Column("CPU µs/request/hop", "cpu_us", 1)
_REQUESTS = (_RPS, _P50, _P99, _CPU)
_REQUEST_RATIOS = (Column("CPU", "cpu_us", 2), Column("p99", "p99_ms", 2), _RPS)

_BYTES = (
    Column("CPU s/GB down", "down_s_per_gb", 3),
    Column("CPU s/GB up", "up_s_per_gb", 3),
    Column("MB/s down", "down_mb_per_s", 0),
    Column("MB/s up", "up_mb_per_s", 0),
    Column("new conn./s", "rps", 0),
    Column("CPU µs/conn.", "cpu_us", 1),
)
_BYTE_RATIOS = (
    Column("CPU/GB down", "down_s_per_gb", 2),
    Column("CPU/GB up", "up_s_per_gb", 2),
    Column("CPU/GB", "s_per_gb", 2),
    Column("CPU/conn.", "cpu_us", 2),
    Column("new conn./s", "rps", 2),
)

_HANDSHAKES = (
    Column("handshakes/s", "rps", 0),
    _P50,
    _P99,
    Column("CPU µs outbound", "outbound_us", 1),
    Column("CPU µs inbound", "inbound_us", 1),
)
_HANDSHAKE_RATIOS = (
    Column("CPU outbound", "outbound_us", 2),
    Column("CPU inbound", "inbound_us", 2),
    Column("CPU", "cpu_us", 2),
    Column("handshakes/s", "rps", 2),
)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "http/1.1",
            (OURS, BASELINE, "haproxy", "nginx"),
            Plan("1,8,32,128", 6, 3),
            Plan("32", 5, 2),
            _REQUESTS,
            _REQUEST_RATIOS,
        ),
        Protocol(
            "h2",
            (OURS, BASELINE, "haproxy", "nghttpx"),
            Plan("1x1,4x1,8x16", 6, 3),
            Plan("1x1,8x16", 4, 2),
            _REQUESTS,
            _REQUEST_RATIOS,
            multiplexed=True,
        ),
        Protocol(
            "grpc",
            (OURS, BASELINE),
            Plan("1x1,8x16", 6, 3),
            Plan("1x1,8x16", 4, 2),
            _REQUESTS,
            _REQUEST_RATIOS,
            multiplexed=True,
        ),
        Protocol(
            "tcp",
            (OURS, BASELINE, "haproxy"),
            Plan("1,8", 6, 3),
            Plan("8", 4, 1),
            _BYTES,
            _BYTE_RATIOS,
        ),
        Protocol(
            "handshake",
            (OURS, BASELINE, "haproxy"),
            Plan("8", 6, 3),
            Plan("8", 6, 2),
            _HANDSHAKES,
            _HANDSHAKE_RATIOS,
        ),
    )
}
