"""The two soaks: long bodies, and many short requests with aborts among them.

Both run against two real workers (`tests.peers.mesh`) and real peers, say what
they see line by line, and raise AssertionError where a promise is not kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers.mesh import PeerMesh, peer_mesh
from tests.peers.node_process import Node
from tests.soak.bodies import DIRECTIONS, Applications, applications
from tests.soak.watch import FIRST_USES, MIB, SIDES, Peak, held, wait_until_idle

PROTOCOLS = ("http/1.1", "h2", "tcp", "websocket")
ALLOWED = 10.0
"""MiB that a worker may grow by (the issue's bound)."""
WARM_BODY = 20 * MIB
WARM_REQUESTS = 2000
"""First uses: every connection, route and buffer is made once before memory is measured."""
AT_ONCE = 32
IDLE = 2
"""Seconds that pooled connections between the workers may idle: the end is awaited."""
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Soak:
    mesh: PeerMesh
    applications: Applications
    say: Say

    def bodies(self, size: int, protocols: tuple[str, ...] = PROTOCOLS) -> None:
        """A body of ``size`` bytes each way over each protocol."""
        for protocol in protocols:
            for direction in DIRECTIONS:
                self._body(protocol, direction, size)

    def _body(self, protocol: str, direction: str, size: int) -> None:
        move = self.applications.transfer
        assert move(protocol, direction, WARM_BODY) == WARM_BODY
        started = time.monotonic()
        with Peak(self.mesh) as peak:
            arrived = move(protocol, direction, size)
        rate = size / MIB / (time.monotonic() - started)
        grown = ", ".join(f"{side} {peak.grown[side]:+.1f} MiB" for side in SIDES)
        self.say(f"{protocol:10} {direction:4} {arrived / MIB:8.0f} MiB {rate:6.0f} MiB/s  {grown}")
        assert arrived == size, f"{protocol} {direction}: {arrived} bytes of {size} arrived"
        for side in SIDES:
            assert peak.grown[side] < ALLOWED, f"{protocol} {direction}: {side} grew too far"

    def requests(self, count: int) -> None:
        """``count`` short requests of all protocols, one in ten broken off by its caller."""
        cold = {side: held(self.mesh, side) for side in SIDES}
        self._run(WARM_REQUESTS)
        wait_until_idle(self.mesh, cold, FIRST_USES)
        warm = {side: held(self.mesh, side) for side in SIDES}
        started = time.monotonic()
        counts = self._run(count)
        self.say(f"{count} requests at {count / (time.monotonic() - started):.0f}/s")
        for name, one in counts.items():
            self.say(f"{name:10} {one['good']:8} good {one['aborted']:7} aborted")
        wait_until_idle(self.mesh, warm)
        for side in SIDES:
            now = held(self.mesh, side)
            grown = (now.memory - warm[side].memory) / MIB
            self.say(f"{side:10} {warm[side]} → {now}: {grown:+.1f} MiB")
            assert grown < ALLOWED, f"{side} keeps {grown:.1f} MiB"

    def _run(self, count: int) -> dict[str, Any]:
        services = self.applications.services
        ports = {
            "http": services["http/1.1"].local,
            "http2": services["h2"].local,
            "grpc": services["grpc"].local,
            "tcp": services["echo"].local,
            "websocket": services["websocket"].local,
        }
        ask = self.applications.client.ask
        counts = ask("load_run", ports=ports, requests=count, at_once=AT_ONCE)
        failed = {name: one for name, one in counts.items() if one["failed"]}
        assert not failed, f"requests failed that nobody aborted: {failed}"
        return counts


@contextmanager
def soak(folder: Path, say: Say) -> Iterator[Soak]:
    """A mesh with the soak's applications behind it, and their callers."""
    server, client = Node(), Node()
    try:
        with peer_mesh(folder, upstream_idle_mesh=IDLE, upstream_idle_local=IDLE) as mesh:
            yield Soak(mesh, applications(mesh, server, client), say)
    finally:
        client.close()
        server.close()
