"""One mesh for each module: shop on a calls victim on b, through every hop there is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.attack.raw import Scripted, say
from tests.e2e.mesh import GENEROUS, Mesh, mesh
from tests.meshd.agent.rig import Host, until

sys.path.insert(0, str(Path(__file__).parents[1] / "meshd" / "worker" / "real"))

from hosts import hosts
from tcp import tcp

__all__ = ["hosts", "target", "tcp"]

PORT = 9080
BROKEN = ("fiber_failed", "Traceback", "call_failed", "connection_failed", "admin_request_failed")
"""Words in a daemon's log that mean a mistake of ours, whatever was sent."""


@dataclass
class Range:
    """Where attacks are tried.  ``app`` is the victim's application."""

    whole: Mesh
    app: Scripted

    @property
    def a(self) -> Host:
        return self.whole.hosts["a"]

    @property
    def b(self) -> Host:
        return self.whole.hosts["b"]

    def say(self, *pieces: bytes | float, seconds: float = 1.0, want: int = 0) -> bytes:
        """Raw bytes to the outbound proxy of host a, as shop."""
        return say(self.a.address, self.a.proxy, *pieces, seconds=seconds, want=want)

    def get(self, path: str = "/", host: str = f"victim:{PORT}") -> bytes:
        """One well-formed request."""
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        return self.say(head.encode(), want=1)

    def works(self) -> bool:
        return self.get("/works").startswith(b"HTTP/1.1 200 ")

    def mistakes(self) -> list[str]:
        """Lines of all logs that tell of a mistake of ours."""
        logs = [host.folder / "log" for host in self.whole.hosts.values()]
        lines = "\n".join(p.read_text() for p in [*logs, self.whole.folder / "ca.log"]).splitlines()
        return [line for line in lines if any(word in line for word in BROKEN)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    with mesh(tmp_path_factory.mktemp("attack")) as whole:
        app = Scripted()
        shop = whole.join("a", 1, "default/shop", workers=1)
        whole.serve(shop, "shop", "v1", 9000)
        whole.join("b", 2, "default/victim", workers=1).declare("victim", PORT, app.port)
        whole.start()
        found = Range(whole, app)
        until(found.works, "the victim answers", GENEROUS)
        yield found
        assert not found.mistakes()
        app.close()
