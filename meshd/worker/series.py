"""Label sets of requests and connections, resolved to offsets of the shared counters once.

Labels come from three sides: our configuration, the peer's certificate, and what
the peer says of itself.  The last is anybody's word, so it is bounded here, a
peer and a worker at a time; what is beyond counts as unknown, never for nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from meshkit.snapshot.types import OutboundHost
from meshkit.telemetry.metrics import ISTIO_STREAM_LABELS, SIZE_BOUNDS
from meshkit.telemetry.peer import MAX_BYTES, UNKNOWN, Facts, decode_facts

if TYPE_CHECKING:
    from meshd.counters import CounterFile
    from meshd.worker.entry import Entry

MAX_SERIES = 5_000
"""Label sets of one worker.  Facts come from peers: what is beyond counts as unknown."""

MAX_FACTS = 32
"""Values of x-baremesh-* counted apart for one peer (a caller's identity, an endpoint of a
cluster); its further ones are unknown.  The value is the peer's word: without a bound it
could fill our memory, and use up the series of everybody else."""
MAX_PEERS = 4_096
MAX_OUTCOMES = 64
"""Status, flags and gRPC status counted apart between the same two: an application that answers
everything there is (500 statuses, 17 of gRPC) must not use up the series of everybody else."""

Local = tuple[Facts, str]
"""A workload of this host, as a destination: its facts and its identity."""


Series = tuple[int, int, list[int], list[int]]
"""Offsets of the counter and of the durations' first cell, and sizes by bucket of requests and
responses since the last `LabelSets.flush`.  A bucket's number is the sizes' sum plus ONE for
each.  A plain tuple: it is unpacked with every request."""

_SHIFT = 60
ONE = 1 << _SHIFT
"""Beyond any sum of sizes within a second.  Adding to a list and not to the shared cells costs
less than half, and one addition instead of two the half of that; in exchange a crash loses the
sizes (never the counts) of its last second."""
_SUM = ONE - 1
_BUCKETS = len(SIZE_BOUNDS) + 1
_NONE = [0] * _BUCKETS


class Place(NamedTuple):
    """Where a request or a connection belongs: all labels but how it went.

    ``who``: the other side's identity, ``facts``: what it says of itself, raw.
    """

    entry: Entry
    destination: OutboundHost | None
    local: Local | None
    who: str
    facts: bytes


class LabelSets:
    """The label sets of one worker."""

    def __init__(self, counters: CounterFile) -> None:
        self._counters = counters
        self._made = 0
        self._series: dict[int, Series] = {}
        self._sizes: list[tuple[Series, int, int]] = []
        """With the first cells of both histograms of sizes."""
        self._facts: dict[object, set[bytes]] = {}
        self._outcomes: Counter[object] = Counter()

    def is_counted(self, peer: object, facts: bytes) -> bool:
        """Whether these facts of this peer have labels of their own."""
        if len(self._facts) >= MAX_PEERS:
            self._facts.clear()
        said = self._facts.setdefault(peer, set())
        if facts in said:
            return True
        if len(said) >= MAX_FACTS or len(facts) > MAX_BYTES:
            return False
        said.add(facts)
        return True

    def request(self, place: Place, status: int, flags: str, grpc: str | None) -> Series:
        """``grpc``: the status of a gRPC answer, "" where none came; None = no gRPC."""
        labels = {
            **_labels(place),
            "request_protocol": "http" if grpc is None else "grpc",
            "response_code": str(status),
            "response_flags": flags,
            "grpc_response_status": grpc or "",
        }
        counters, name = self._counters, "istio_requests_total"
        if not counters.has(name, labels) and self._has_enough(place):
            labels |= {"response_code": "unknown", "grpc_response_status": ""}
        labels = self._bounded(name, labels)
        requests = counters.counter(name, labels)
        series = self._series.get(requests)
        if series is None:
            duration = counters.histogram("istio_request_duration_milliseconds", labels)
            series = requests, duration, [0] * _BUCKETS, [0] * _BUCKETS
            self._series[requests] = series
            self._sizes.append(
                (
                    series,
                    counters.histogram("istio_request_bytes", labels),
                    counters.histogram("istio_response_bytes", labels),
                )
            )
        return series

    def _has_enough(self, place: Place) -> bool:
        """Whether these two have MAX_OUTCOMES already; else one more is counted."""
        if len(self._outcomes) >= MAX_PEERS:
            self._outcomes.clear()
        host = place.destination
        peers = place.entry.reporter, host.host if host else "", place.who, place.facts
        self._outcomes[peers] += 1
        return self._outcomes[peers] > MAX_OUTCOMES

    def flush(self) -> None:
        """Sizes into the shared cells; once a second, and at the end."""
        for (_, _, got, sent), request_bytes, response_bytes in self._sizes:
            if any(sent):
                # Requests without a body were not counted one by one: each has a response.
                bodies = sum(number >> _SHIFT for number in got)
                got[0] = (sum(number >> _SHIFT for number in sent) - bodies) << _SHIFT
                self._move(got, request_bytes)
                self._move(sent, response_bytes)

    def _move(self, numbers: list[int], first: int) -> None:
        cells = self._counters.cells
        total = 0
        for index, number in enumerate(numbers):
            if number:
                cells[first + index] += number >> _SHIFT
                total += number & _SUM
        cells[first + _BUCKETS] += total
        numbers[:] = _NONE

    def stream(
        self, names: tuple[str, ...], place: Place, protocol: str, flags: str = "-"
    ) -> tuple[int, ...]:
        """Offsets of the counters called ``names``, for a connection or messages."""
        labels = {**_labels(place), "request_protocol": protocol, "response_flags": flags}
        labels = self._bounded(names[0], {name: labels[name] for name in ISTIO_STREAM_LABELS})
        return tuple(self._counters.counter(name, labels) for name in names)

    def _bounded(self, name: str, labels: dict[str, str]) -> dict[str, str]:
        if self._counters.has(name, labels):
            return labels
        self._made += 1
        return labels if self._made <= MAX_SERIES else dict.fromkeys(labels, "unknown")


def _labels(place: Place) -> dict[str, str]:
    entry, host = place.entry, place.destination
    peer = decode_facts(place.facts) if place.facts else UNKNOWN
    if entry.inbound and place.local is not None:
        source, destination = (peer, place.who), place.local
    else:
        own = entry.caller.facts if entry.caller is not None else UNKNOWN
        source, destination = (own, place.who), (peer, "")
    return {
        "reporter": entry.reporter,
        **_side("source", *source),
        **_side("destination", *destination),
        "destination_service": host.host if host else "unknown",
        "destination_service_name": host.service if host else "unknown",
        "destination_service_namespace": host.namespace if host else "unknown",
        "connection_security_policy": _security(entry),
    }


def _security(entry: Entry) -> str:
    """⚠ Istio: only the destination knows; the source always says unknown."""
    if not entry.inbound:
        return "unknown"
    return "mutual_tls" if entry.mesh_peer else "none"


def _side(side: str, facts: Facts, principal: str) -> dict[str, str]:
    return {
        f"{side}_workload": facts.workload or "unknown",
        f"{side}_workload_namespace": facts.namespace or "unknown",
        f"{side}_principal": principal or "unknown",
        f"{side}_app": facts.app or "unknown",
        f"{side}_version": facts.version or "unknown",
        f"{side}_cluster": "unknown",
        f"{side}_canonical_service": facts.app or "unknown",
        f"{side}_canonical_revision": facts.version or "latest",
    }
