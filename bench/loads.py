"""Loading a peer with each protocol: what one round of it yields."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from bench.answers import GRPC_HEADERS
from bench.applications.start import MESSAGE, METHOD
from bench.figures import AnySample, Sample, TCPSample, Way
from bench.h2load import Call, h2load
from bench.measure import Load, cpu_ns, wrk
from bench.peers.running import HOST, Running
from bench.processes import LOAD_CPU, BenchError
from bench.protocols import Shape
from bench.transfer import Bulk, transfer

REST_SECONDS = 0.2
"""Between two loads: connections of the last one close on the last one's account."""

VARY = Path(__file__).parent / "vary.lua"
CLOSING = ("Connection: close",)


class Meter:
    """CPU of a peer's processes over a load."""

    def __init__(self, peer: Running) -> None:
        self._pids, self._outbound = peer.pids(), peer.outbound_pids()
        self._agents = peer.agents
        self._before = self._read()

    def _read(self) -> tuple[int, int, int]:
        return cpu_ns(self._pids), cpu_ns(self._agents), cpu_ns(self._outbound)

    def sample(self, load: Load) -> Sample:
        """The load, with what was spent since this meter was made."""
        spent = (now - then for now, then in zip(self._read(), self._before, strict=True))
        return Sample(load, *spent)

    def way(self, bulk: Bulk) -> Way:
        return Way(bulk, self._read()[0] - self._before[0])


class Loads:
    """Loads of one protocol; `folder` takes what the load generators need and write."""

    def __init__(self, protocol: str, folder: Path, vary: bool = False) -> None:
        self._protocol = protocol
        self._folder = folder
        self._script = VARY if vary else None
        self._message = folder / "message"
        self._message.write_bytes(MESSAGE)

    def run(self, peer: Running, shape: Shape, seconds: int) -> tuple[AnySample, int]:
        """One load of a peer: its figures, and how many log lines it must have led to.

        Raises BenchError where a request failed, LoadError where the load generator did.
        """
        sample, lines = _RUNS[self._protocol](self, peer, shape, seconds)
        time.sleep(REST_SECONDS)
        return sample, lines

    def requests(self, peer: Running, shape: Shape, seconds: int) -> tuple[Sample, int]:
        """HTTP/1.1: one kept-alive request after another on each connection."""
        meter = Meter(peer)
        load = wrk(peer.url, HOST, shape.connections, seconds, LOAD_CPU, self._script)
        return self._whole(peer, meter, load)

    def streams(self, peer: Running, shape: Shape, seconds: int) -> tuple[Sample, int]:
        """HTTP/2: the next request on a stream when the last was answered."""
        return self._h2(peer, shape, seconds, Call(HOST))

    def calls(self, peer: Running, shape: Shape, seconds: int) -> tuple[Sample, int]:
        """gRPC: unary calls, a message each way."""
        return self._h2(peer, shape, seconds, Call(HOST, METHOD, GRPC_HEADERS, self._message))

    def _h2(self, peer: Running, shape: Shape, seconds: int, call: Call) -> tuple[Sample, int]:
        meter, log = Meter(peer), self._folder / "h2load.log"
        connections, streams = shape.connections, shape.streams
        load = h2load(peer.port, call, connections, streams, seconds, LOAD_CPU, log)
        return self._whole(peer, meter, load)

    def connections(self, peer: Running, shape: Shape, seconds: int) -> tuple[Sample, int]:
        """A new connection for each short request: a line, an answer, the end."""
        meter = Meter(peer)
        load = wrk(peer.url, HOST, shape.connections, seconds, LOAD_CPU, headers=CLOSING)
        return self._whole(peer, meter, load)

    def tcp(self, peer: Running, shape: Shape, seconds: int) -> tuple[TCPSample, int]:
        """Bytes down, bytes up, and short connections."""
        down = self._way(peer, shape, seconds, "down")
        up = self._way(peer, shape, seconds, "up")
        short, lines = self.connections(peer, shape, seconds)
        return TCPSample(down, up, short), lines + 2 * shape.connections

    def _way(self, peer: Running, shape: Shape, seconds: int, way: Literal["down", "up"]) -> Way:
        meter = Meter(peer)
        moved = meter.way(transfer(way, peer.port, shape.connections, seconds, LOAD_CPU))
        time.sleep(REST_SECONDS)
        return moved

    def _whole(self, peer: Running, meter: Meter, load: Load) -> tuple[Sample, int]:
        sample = meter.sample(load)
        if load.failed:
            raise BenchError(
                f"{peer.name}: {load.failed} of {load.requests} requests failed "
                f"over {self._protocol}"
            )
        return sample, load.requests


Run = Callable[[Loads, Running, Shape, int], tuple[AnySample, int]]
_RUNS: Mapping[str, Run] = {
    "http/1.1": Loads.requests,
    "h2": Loads.streams,
    "grpc": Loads.calls,
    "tcp": Loads.tcp,
    "handshake": Loads.connections,
}
