"""Who talks to whom: from the counters of every host, over one interval.

The receiving side's counters are read (``reporter="destination"``), because only
it knows that the caller showed a certificate.  p50 and p99 come from the
histogram, by linear interpolation inside a bucket, as PromQL's histogram_quantile.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

REQUESTS = "istio_requests_total"
DURATION = "istio_request_duration_milliseconds_bucket"


class Edge(NamedTuple):
    """Workloads (``reviews-v1``); ``host`` is whose counters these are."""

    source: str
    target: str
    host: str


@dataclass
class Tally:
    """Totals since a host's start; ``buckets``: upper bound in ms → cumulative count."""

    requests: float = 0.0
    failed: float = 0.0
    mutual: float = 0.0
    buckets: dict[float, float] = field(default_factory=lambda: defaultdict(float))

    def minus(self, earlier: Tally) -> Tally:
        return Tally(
            self.requests - earlier.requests,
            self.failed - earlier.failed,
            self.mutual - earlier.mutual,
            {bound: n - earlier.buckets.get(bound, 0.0) for bound, n in self.buckets.items()},
        )


Sample = tuple[str, Mapping[str, str], float]
Tallies = dict[Edge, Tally]


def _edge(labels: Mapping[str, str], host: str) -> Edge:
    source = labels.get("source_workload", "unknown")
    return Edge(source, labels.get("destination_workload", "unknown"), host)


def _count(tally: Tally, labels: Mapping[str, str], value: float) -> None:
    tally.requests += value
    if labels.get("response_code", "0")[:1] not in "1234":
        tally.failed += value
    if labels.get("connection_security_policy") == "mutual_tls":
        tally.mutual += value


def tally(host: str, samples: Iterable[Sample]) -> Tallies:
    """The edges into ``host``, from its /metrics."""
    edges: Tallies = defaultdict(Tally)
    for name, labels, value in samples:
        if labels.get("reporter") != "destination":
            continue
        if name == REQUESTS:
            _count(edges[_edge(labels, host)], labels, value)
        elif name == DURATION:
            edges[_edge(labels, host)].buckets[float(labels["le"])] += value
    return edges


def quantile(share: float, buckets: Mapping[float, float]) -> float:
    """Milliseconds under which ``share`` of the requests stayed; NaN without any."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return math.nan
    rank, lower, below = share * total, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            inside = buckets[bound] - below
            if math.isinf(bound) or inside <= 0:
                return lower
            return lower + (bound - lower) * (rank - below) / inside
        lower, below = bound, buckets[bound]
    return lower


@dataclass(frozen=True, slots=True)
class Flow:
    """One row: requests a second, shares 0–1, milliseconds."""

    edge: Edge
    rate: float
    success: float
    p50: float
    p99: float
    mutual: float


def flows(before: Tallies, after: Tallies, seconds: float) -> list[Flow]:
    """What happened between two readings, by edge; idle edges are left out."""
    rows = []
    for edge, total in after.items():
        now = total.minus(before.get(edge, Tally()))
        if now.requests <= 0:
            continue
        rows.append(
            Flow(
                edge,
                now.requests / seconds,
                1 - now.failed / now.requests,
                quantile(0.5, now.buckets),
                quantile(0.99, now.buckets),
                now.mutual / now.requests,
            )
        )
    return sorted(rows, key=lambda row: row.edge)
