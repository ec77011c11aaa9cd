"""The measurement: every peer once a round, in rotated order, at one number of connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import certs
from bench.checks import LogCount, check
from bench.figures import HOPS, Result, Sample, rotated
from bench.measure import cpu_ns, pss_mb, wrk
from bench.peers import envoy, haproxy, mesh, nginx
from bench.peers.running import HOST, Running
from bench.processes import LOAD_CPU, BenchError, Processes

Start = Callable[[Path, int, Processes], Running]
PEERS: Mapping[str, Start] = {
    "baremesh": mesh.start,
    "envoy": envoy.start,
    "haproxy": haproxy.start,
    "nginx": nginx.start,
}

WARM_UP_SECONDS = 1
"""Opens the pools and lets every branch be taken once, before the first round."""

REST_SECONDS = 0.2
"""Between two loads: connections of the last one close on the last one's account."""


class Bench:
    """Started, checked peers and their application; a context manager."""

    def __init__(self, names: Sequence[str], folder: Path, vary: bool = False) -> None:
        self._script = Path(__file__).parent / "vary.lua" if vary else None
        self.names = list(names)
        self.peers: dict[str, Running] = {}
        self._folder = folder
        self._processes = Processes()
        self._logs: dict[str, LogCount] = {}

    def __enter__(self) -> Bench:
        try:
            certs.make(self._folder)
            backend = nginx.start_backend(self._folder, self._processes)
            for name in self.names:
                peer = PEERS[name](self._folder, backend, self._processes)
                check(peer, self._folder)
                self.peers[name] = peer
                self._logs[name] = LogCount(peer)
        except BaseException:
            self._processes.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()

    def at(
        self,
        connections: int,
        rounds: int,
        seconds: int,
        progress: Callable[[str], None] = lambda text: None,
    ) -> list[Result]:
        """One result a peer, in the order of `names`.

        Raises BenchError where a request failed or was not logged, LoadError where
        the load generator did.
        """
        samples: dict[str, list[Sample]] = {name: [] for name in self.names}
        for name in self.names:
            self._load(name, connections, WARM_UP_SECONDS)
        for round_ in range(rounds):
            progress(f"{connections} connections: round {round_ + 1} of {rounds}")
            for name in rotated(self.names, round_):
                samples[name].append(self._load(name, connections, seconds))
        results = []
        for name, peer in self.peers.items():
            self._logs[name].verify()
            whole, agents = pss_mb(peer.pids()) / HOPS, pss_mb(peer.agents) / HOPS
            results.append(Result(name, connections, tuple(samples[name]), whole, agents))
        return results

    def _load(self, name: str, connections: int, seconds: int) -> Sample:
        peer = self.peers[name]
        pids = peer.pids()
        before, agents_before = cpu_ns(pids), cpu_ns(peer.agents)
        load = wrk(peer.url, HOST, connections, seconds, LOAD_CPU, self._script)
        spent, agents = cpu_ns(pids) - before, cpu_ns(peer.agents) - agents_before
        if load.failed:
            raise BenchError(
                f"{name}: {load.failed} of {load.requests} requests failed "
                f"at {connections} connections"
            )
        if ended := self._processes.ended():
            raise BenchError(f"{name}: ended while measured: {'; '.join(ended)}")
        time.sleep(REST_SECONDS)
        self._logs[name].add(load.requests)
        return Sample(load, spent, agents)
