"""From measurements to figures: medians with their spread, ratios round by round.

The machine drifts between rounds by more than the peers differ, so a ratio of two
medians would compare two different hours.  A ratio is taken between neighbours,
within one round, and it is the ratios that get a median and a spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.measure import Load
from bench.transfer import Bulk

BASELINE = "envoy"
HOPS = 2
GB = 1e9


def per_hop_us(cpu_ns: int, requests: int) -> float:
    """CPU microseconds per request and hop of `cpu_ns` spent on `requests` in both hops."""
    return cpu_ns / 1000 / requests / HOPS


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer in one round.  CPU in nanoseconds over both hops, agents included."""

    load: Load
    cpu_ns: int
    agents_ns: int = 0
    outbound_ns: int = 0
    """The outbound hop's part of `cpu_ns`."""

    @property
    def rps(self) -> float:
        """Requests, or for TCP and handshakes connections, per second."""
        return self.load.rps

    @property
    def p50_ms(self) -> float:
        return self.load.p50_ms

    @property
    def p99_ms(self) -> float:
        return self.load.p99_ms

    @property
    def cpu_us(self) -> float:
        """Microseconds per request and hop."""
        return per_hop_us(self.cpu_ns, self.load.requests)

    @property
    def agents_us(self) -> float:
        """The agents' part of `cpu_us`."""
        return per_hop_us(self.agents_ns, self.load.requests)

    @property
    def outbound_us(self) -> float:
        """Microseconds per request in the outbound hop alone."""
        return self.outbound_ns / 1000 / self.load.requests

    @property
    def inbound_us(self) -> float:
        """Microseconds per request in the inbound hop alone."""
        return (self.cpu_ns - self.outbound_ns) / 1000 / self.load.requests


@dataclass(frozen=True, slots=True)
class Way:
    """Bytes in one direction, and the CPU that both hops spent on them, in nanoseconds."""

    bulk: Bulk
    cpu_ns: int

    @property
    def s_per_gb(self) -> float:
        """CPU seconds per 10⁹ bytes and hop."""
        return self.cpu_ns / 1e9 / (self.bulk.bytes / GB) / HOPS


@dataclass(frozen=True, slots=True)
class TCPSample:
    """One peer in one round of TCP: a download, an upload, and short connections."""

    down: Way
    up: Way
    short: Sample

    @property
    def down_s_per_gb(self) -> float:
        return self.down.s_per_gb

    @property
    def up_s_per_gb(self) -> float:
        return self.up.s_per_gb

    @property
    def s_per_gb(self) -> float:
        """CPU seconds per GB and hop, the mean of both ways."""
        return (self.down.s_per_gb + self.up.s_per_gb) / 2

    @property
    def down_mb_per_s(self) -> float:
        return self.down.bulk.bytes / 1e6 / self.down.bulk.seconds

    @property
    def up_mb_per_s(self) -> float:
        return self.up.bulk.bytes / 1e6 / self.up.bulk.seconds

    @property
    def rps(self) -> float:
        """New connections per second."""
        return self.short.rps

    @property
    def p99_ms(self) -> float:
        """From a short connection's request to its answer."""
        return self.short.p99_ms

    @property
    def cpu_us(self) -> float:
        """Microseconds per short connection and hop."""
        return self.short.cpu_us

    @property
    def agents_us(self) -> float:
        return self.short.agents_us


AnySample = Sample | TCPSample


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of some rounds."""

    median: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """``31.2 (29.8–33.0)``."""
        middle, low, high = (f"{v:.{digits}f}" for v in (self.median, self.low, self.high))
        return f"{middle} ({low}–{high})"


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError for none."""
    if not values:
        raise ValueError("a spread needs at least one value")
    return Spread(statistics.median(values), min(values), max(values))


Quantity = Literal[
    "rps",
    "p50_ms",
    "p99_ms",
    "cpu_us",
    "agents_us",
    "outbound_us",
    "inbound_us",
    "down_s_per_gb",
    "up_s_per_gb",
    "s_per_gb",
    "down_mb_per_s",
    "up_mb_per_s",
]
"""What samples are asked for: properties of `Sample`, `TCPSample` or both."""


def value(sample: AnySample, quantity: Quantity) -> float:
    return float(getattr(sample, quantity))


def over(samples: Sequence[AnySample], quantity: Quantity) -> Spread:
    """The spread of one quantity over the rounds."""
    return spread([value(sample, quantity) for sample in samples])


def ratio(
    samples: Sequence[AnySample], baseline: Sequence[AnySample], quantity: Quantity
) -> Spread | None:
    """`samples` over `baseline`, round by round; None where a baseline is 0.

    Raises ValueError where the two have not the same rounds.
    """
    pairs = [
        (value(one, quantity), value(other, quantity))
        for one, other in zip(samples, baseline, strict=True)
    ]
    if not all(other for _, other in pairs):
        return None
    return spread([one / other for one, other in pairs])


@dataclass(frozen=True, slots=True)
class Result:
    """One peer at one number of connections: a sample a round, and its memory after them."""

    peer: str
    connections: int
    samples: tuple[AnySample, ...]
    pss_mb: float
    """Per hop, agents included."""
    agents_pss_mb: float = 0.0
    """The agents' part of `pss_mb`."""
    protocol: str = "http/1.1"
    streams: int = 1

    def row(self) -> dict[str, str | int | float | None]:
        """As in latest.json: medians over the rounds."""
        figures = self._tcp() if self.protocol == "tcp" else self._requests()
        return {
            "peer": self.peer,
            "protocol": self.protocol,
            "connections": self.connections,
            "streams": self.streams,
            **figures,
            "pss_mb": round(self.pss_mb, 2),
        }

    def _median(self, quantity: Quantity, digits: int) -> float:
        return round(over(self.samples, quantity).median, digits)

    def _requests(self) -> dict[str, float | None]:
        return {
            "rps": self._median("rps", 1),
            "p50_ms": self._median("p50_ms", 3),
            "p99_ms": self._median("p99_ms", 3),
            "cpu_us_per_request_hop": self._median("cpu_us", 2),
        }

    def _tcp(self) -> dict[str, float | None]:
        """TCP has no requests: those keys are there, and null."""
        none = dict.fromkeys(("rps", "p50_ms", "p99_ms", "cpu_us_per_request_hop"))
        return {
            **none,
            "cpu_s_per_gb": self._median("s_per_gb", 4),
            "cpu_s_per_gb_down": self._median("down_s_per_gb", 4),
            "cpu_s_per_gb_up": self._median("up_s_per_gb", 4),
            "connections_per_s": self._median("rps", 1),
            "cpu_us_per_connection_hop": self._median("cpu_us", 2),
        }


def rotated(names: Sequence[str], round_: int) -> list[str]:
    """The order of a round: each peer is first, second, … equally often."""
    shift = round_ % len(names)
    return [*names[shift:], *names[:shift]]
