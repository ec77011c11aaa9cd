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

BASELINE = "envoy"


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer in one round.  CPU in nanoseconds over both hops, agents included."""

    load: Load
    cpu_ns: int
    agents_ns: int = 0

    @property
    def cpu_us(self) -> float:
        """Microseconds per request and hop."""
        return per_hop_us(self.cpu_ns, self.load.requests)

    @property
    def agents_us(self) -> float:
        """The agents' part of `cpu_us`."""
        return per_hop_us(self.agents_ns, self.load.requests)


HOPS = 2


def per_hop_us(cpu_ns: int, requests: int) -> float:
    """CPU microseconds per request and hop of `cpu_ns` spent on `requests` in both hops."""
    return cpu_ns / 1000 / requests / HOPS


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


Quantity = Literal["rps", "p50_ms", "p99_ms", "cpu_us", "agents_us"]


def value(sample: Sample, quantity: Quantity) -> float:
    if quantity in ("cpu_us", "agents_us"):
        return float(getattr(sample, quantity))
    return float(getattr(sample.load, quantity))


def over(samples: Sequence[Sample], quantity: Quantity) -> Spread:
    """The spread of one quantity over the rounds."""
    return spread([value(sample, quantity) for sample in samples])


def ratio(
    samples: Sequence[Sample], baseline: Sequence[Sample], quantity: Quantity
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
    samples: tuple[Sample, ...]
    pss_mb: float
    """Per hop, agents included."""
    agents_pss_mb: float = 0.0
    """The agents' part of `pss_mb`."""
    protocol: str = "http/1.1"
    streams: int = 1

    def row(self) -> dict[str, str | int | float]:
        """As in latest.json: medians over the rounds."""
        return {
            "peer": self.peer,
            "protocol": self.protocol,
            "connections": self.connections,
            "streams": self.streams,
            "rps": round(over(self.samples, "rps").median, 1),
            "p50_ms": round(over(self.samples, "p50_ms").median, 3),
            "p99_ms": round(over(self.samples, "p99_ms").median, 3),
            "cpu_us_per_request_hop": round(over(self.samples, "cpu_us").median, 2),
            "pss_mb": round(self.pss_mb, 2),
        }


def rotated(names: Sequence[str], round_: int) -> list[str]:
    """The order of a round: each peer is first, second, … equally often."""
    shift = round_ % len(names)
    return [*names[shift:], *names[:shift]]
