"""How much memory a host's worker and agent take, by the size of the mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.applications.start import application
from bench.measure import pss_mb, wrk
from bench.peers import mesh
from bench.peers.running import HOST
from bench.processes import LOAD_CPU, BenchError, Processes, children
from bench.report import Table

CONNECTIONS, SECONDS = 32, 2
"""A load before the measurement: an idle worker has no pools and no parsed routes yet."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """PSS in MB of the calling host, which holds the whole route table."""

    size: mesh.Size
    worker_mb: float
    agent_mb: float


def footprint(size: mesh.Size, folder: Path) -> Footprint:
    """Start a mesh of that size, load it, and look.  Raises BenchError, LoadError."""
    folder.mkdir()
    processes = Processes()
    try:
        backend = application("http/1.1", folder, processes)
        peer = mesh.start(folder, backend, processes, size=size)
        load = wrk(peer.url, HOST, CONNECTIONS, SECONDS, LOAD_CPU)
        if load.failed:
            raise BenchError(f"{load.failed} of {load.requests} requests failed")
        agent = peer.agents[0]  # of the calling host
        workers = [pid for pid in children(agent) if pid != agent]
        return Footprint(size, pss_mb(workers), pss_mb([agent]))
    finally:
        processes.stop()


def table(found: list[Footprint]) -> Table:
    head = ["services x rules", "worker MB", "agent MB"]
    rows = [
        [f"{f.size.services} x {f.size.rules}", f"{f.worker_mb:.1f}", f"{f.agent_mb:.1f}"]
        for f in found
    ]
    return [head, *rows]
