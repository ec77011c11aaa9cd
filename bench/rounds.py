"""The measurement of one protocol: every peer once a round, in rotated order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench import certs
from bench.applications.start import application
from bench.checks import LogCount, check
from bench.figures import HOPS, AnySample, Result, rotated
from bench.loads import Loads
from bench.measure import pss_mb
from bench.peers.running import Running
from bench.processes import BenchError, Processes
from bench.protocols import PEERS, Shape

WARM_UP_SECONDS = 1
"""Opens the pools and lets every branch be taken once, before the first round."""


class Bench:
    """Started, checked peers and their application, for one protocol; a context manager."""

    def __init__(
        self, names: Sequence[str], folder: Path, protocol: str = "http/1.1", vary: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.names = list(names)
        self.peers: dict[str, Running] = {}
        self._folder = folder
        self._protocol = protocol
        self._loads = Loads(protocol, folder, vary)
        self._processes = Processes()
        self._logs: dict[str, LogCount] = {}

    def __enter__(self) -> Bench:
        try:
            certs.make(self._folder)
            backend = application(self._protocol, self._folder, self._processes)
            for name in self.names:
                peer = PEERS[name](self._folder, backend, self._processes, self._protocol)
                check(peer, self._folder, self._protocol)
                self.peers[name] = peer
                self._logs[name] = LogCount(peer, self._protocol)
        except BaseException:
            self._processes.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()

    def at(
        self,
        shape: Shape,
        rounds: int,
        seconds: int,
        progress: Callable[[str], None] = lambda text: None,
    ) -> list[Result]:
        """One result a peer, in the order of `names`.

        Raises BenchError where a request failed or was not logged, LoadError where
        the load generator did.
        """
        samples: dict[str, list[AnySample]] = {name: [] for name in self.names}
        for name in self.names:
            self._load(name, shape, WARM_UP_SECONDS)
        for round_ in range(rounds):
            progress(f"{self._protocol} {shape}: round {round_ + 1} of {rounds}")
            for name in rotated(self.names, round_):
                samples[name].append(self._load(name, shape, seconds))
        return [self._result(name, shape, samples[name]) for name in self.names]

    def _result(self, name: str, shape: Shape, samples: Sequence[AnySample]) -> Result:
        peer = self.peers[name]
        self._logs[name].verify()
        whole, agents = pss_mb(peer.pids()) / HOPS, pss_mb(peer.agents) / HOPS
        return Result(
            name, shape.connections, tuple(samples), whole, agents, self._protocol, shape.streams
        )

    def _load(self, name: str, shape: Shape, seconds: int) -> AnySample:
        sample, lines = self._loads.run(self.peers[name], shape, seconds)
        if ended := self._processes.ended():
            raise BenchError(f"{name}: ended while measured: {'; '.join(ended)}")
        self._logs[name].add(lines)
        return sample
