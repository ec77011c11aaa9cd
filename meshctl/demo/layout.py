"""Who runs where in the demo: three hosts, a gateway, seven programs.

gateway ──► a: productpage ──► b: details, reviews v1
                          └──► c: reviews v2, reviews v3 ──► ratings
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshctl.demo.places import CONTROL, MESH, METRICS, PROXY

GATEWAY = "gateway"
GATEWAY_ACCOUNT = "istio-system/mesh-gateway"
EXAMPLES = Path(__file__).parents[2] / "examples" / "bookinfo"


@dataclass(frozen=True, slots=True)
class Program:
    """One application process and its declaration.

    ``port`` is the mesh's, ``target`` where it listens; ``upstream`` a local port
    for ratings, 0 for none (a port of its own says who calls without asking who
    owns the process: all of the demo runs under one user).
    """

    service: str
    version: str
    port: int
    target: int
    upstream: int = 0

    @property
    def label(self) -> str:
        return f"{self.service}-{self.version}"


RATINGS_PORT = 9083
HOSTS: dict[str, tuple[Program, ...]] = {
    "a": (Program("productpage", "v1", 9080, 19080),),
    "b": (Program("details", "v1", 9081, 19081), Program("reviews", "v1", 9082, 19082)),
    "c": (
        Program("reviews", "v2", 9082, 19182, upstream=9182),
        Program("reviews", "v3", 9082, 19282, upstream=9183),
        Program("ratings", "v1", RATINGS_PORT, 19083),
    ),
}

_LAST = {"a": 1, "b": 2, "c": 3, GATEWAY: 4, "ca": 10, "consul": 20}


@dataclass(frozen=True, slots=True)
class Layout:
    """``block`` is N of 127.0.N.0/24; the gateway's page is at ``edge``."""

    folder: Path
    block: int
    edge: tuple[str, int]
    consul: bool = False

    def address(self, who: str) -> str:
        return f"127.0.{self.block}.{_LAST[who]}"

    @property
    def control(self) -> str:
        return f"{self.address('ca')}:{CONTROL}"

    @property
    def page(self) -> str:
        return f"http://{self.edge[0]}:{self.edge[1]}"

    @property
    def operator(self) -> Path:
        """The operator's context, as `mesh-ca init` leaves it."""
        return self.folder / "ca" / "state" / "operator"

    def metrics(self, who: str) -> str:
        return f"http://{self.address(who)}:{METRICS}/metrics"

    def members(self) -> tuple[str, ...]:
        """Every host that joins: a, b, c and the gateway."""
        return (*HOSTS, GATEWAY)


def accounts(host: str) -> list[str]:
    """The service accounts a host is entitled to."""
    if host == GATEWAY:
        return [GATEWAY_ACCOUNT]
    return sorted({f"default/{program.service}" for program in HOSTS[host]})


def needed(block: int, *, consul: bool = False) -> list[tuple[str, int]]:
    """Every address that the daemons and programs of a block bind, each once.

    Two versions of a service on one host share its plaintext port.
    """

    def every() -> Iterator[tuple[str, int]]:
        at = Layout(Path(), block, ("", 0))
        yield at.address("ca"), CONTROL
        for who in at.members():
            yield from ((at.address(who), port) for port in (MESH, METRICS))
        for host, programs in HOSTS.items():
            yield at.address(host), PROXY
            for program in programs:
                ports = (program.port, program.target, program.upstream)
                yield from ((at.address(host), port) for port in ports if port)
        if consul:
            yield from ((at.address("consul"), port) for port in (8300, 8301, 8302, 8500))

    return list(dict.fromkeys(every()))
