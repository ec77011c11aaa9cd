"""What is remembered of a request: two metrics and a log line.

Every label set is resolved to offsets of the shared counters once; a request
costs a dict lookup and four additions in place.  The key of that lookup holds
what can differ between requests of one route: who is at the other end, what it
says of itself, status and flags.
"""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic, time
from typing import TYPE_CHECKING, NamedTuple

from meshkit.http.errors import HTTPError
from meshkit.telemetry.accesslog import Facts as LineFacts
from meshkit.telemetry.accesslog import Stamps, format_entry, line_format
from meshkit.telemetry.metrics import DURATION_BOUNDS
from meshkit.telemetry.peer import MAX_BYTES, UNKNOWN, Facts, decode_facts

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.entry import Entry
    from meshd.worker.exchange import Exchange
    from meshd.worker.routes import Action

MAX_SERIES = 5_000
"""Label sets of one worker.  Facts come from peers: what is beyond counts as unknown."""


MAX_FACTS = 32
"""Values of x-baremesh-* counted apart for one peer (a caller's identity, an endpoint of a
cluster); its further ones are unknown.  The value is the peer's word: without a bound it
could fill our memory, and use up the series of everybody else."""
MAX_PEERS = 4_096

MAX_LINES = 32
"""Access-log formats kept for one connection; a client that varies its fields starts anew."""

MAX_LINE_BYTES = 2048
"""A longer line is not kept: 32 of the longest would hold a megabyte for one connection."""


class Series(NamedTuple):
    """Offsets into the shared cells: the counter, and the histogram's first cell."""

    requests: int
    duration: int


class Recorder:
    """Counters and access log of one worker."""

    def __init__(self, ctx: WorkerContext) -> None:
        self._ctx = ctx
        self._counters = ctx.counters
        self._cells = ctx.counters.cells
        self._stamps = Stamps()
        self._plain: dict[tuple[str, ...], int] = {}
        self._unrouted: dict[object, Series] = {}
        self._series = 0
        self._facts: dict[object, set[bytes]] = {}

    # Requests

    def request(self, x: Exchange) -> None:
        """Count and log a finished request."""
        entry, action = x.entry, x.action
        duration = (monotonic() - x.started) * 1000.0
        who = entry.who
        key = (who, x.peer_facts, x.status, x.flags)
        known = self._unrouted if action is None else action.series
        series = known.get(key)
        if series is None:
            series = self._new_series(x, action, who, known)
        cells = self._cells
        cells[series.requests] += 1
        at = series.duration
        cells[at + bisect_left(DURATION_BOUNDS, duration)] += 1
        cells[at + _SUM] += int(duration * 1000.0)
        if self._ctx.log.enabled:
            self._log(x, entry, int(duration))

    def _log(self, x: Exchange, entry: Entry, duration: int) -> None:
        head, names = x.head, x.names
        # What repeats: the key of a format that has it escaped and in place already.
        key = (
            x.choice,
            head.method,
            head.authority,
            names.get(b"user-agent", b""),
            names.get(b"x-forwarded-for", b""),
            x.upstream,
            x.flags,
            x.details,
            x.failure,
        )
        line = entry.lines.get(key)
        if line is None:
            line = self._new_line(x, entry, key)
        self._ctx.log.add(
            format_entry(
                line,
                self._stamps.timestamp(time() - duration / 1000.0),
                x.path or head.path,
                x.status,
                x.bytes_in,
                x.bytes_out,
                duration,
                int((x.answered - x.started) * 1000) if x.answered else -1,
                x.request_id,
                x.upstream_local,
            )
        )

    def _new_line(self, x: Exchange, entry: Entry, key: tuple[object, ...]) -> bytes:
        line = line_format(
            LineFacts(
                route_name=x.action.name if x.action is not None else "",
                upstream_cluster=x.choice.cluster_name if x.choice is not None else "",
                local=entry.local,
                remote=entry.remote,
                server_name=entry.sni,
                method=x.head.method,
                http10=x.head.http10,
                flags=x.flags,
                details=x.details,
                forwarded_for=x.names.get(b"x-forwarded-for", b""),
                user_agent=x.names.get(b"user-agent", b""),
                authority=x.head.authority,
                upstream_host=x.upstream,
                failure=x.failure,
            )
        )
        if len(line) <= MAX_LINE_BYTES:
            if len(entry.lines) >= MAX_LINES:
                entry.lines.clear()
            entry.lines[key] = line
        return line

    def refusal(self, entry: Entry, error: HTTPError) -> None:
        """A message that was no request: counted as one with its status, flag DPE."""
        key = (entry.reporter, error.status)
        series = self._unrouted.get(key)
        if series is None:
            labels = self._labels(entry, None, "", UNKNOWN)
            series = self._unrouted[key] = self._new(labels, error.status, "DPE")
        self._cells[series.requests] += 1

    # Label sets

    def _new_series(
        self, x: Exchange, action: Action | None, who: str, known: dict[object, Series]
    ) -> Series:
        """The series of a key that is not known yet; remembered, within bounds."""
        if x.peer_facts:
            cluster = x.choice.cluster_name if x.choice is not None else ""
            peer = who if x.entry.inbound else (cluster, x.upstream)
            if not self._is_counted(peer, x.peer_facts):
                x.peer_facts = b""
        key = (who, x.peer_facts, x.status, x.flags)
        series = known.get(key)
        if series is None:
            series = known[key] = self._resolve(x, action, who)
        return series

    def _is_counted(self, peer: object, facts: bytes) -> bool:
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

    def _resolve(self, x: Exchange, action: Action | None, who: str) -> Series:
        facts = decode_facts(x.peer_facts) if x.peer_facts else UNKNOWN
        return self._new(self._labels(x.entry, action, who, facts), x.status, x.flags)

    def _new(self, labels: dict[str, str], status: int, flags: str) -> Series:
        labels = {**labels, "response_code": str(status), "response_flags": flags}
        self._series += 1
        if self._series > MAX_SERIES:
            labels = dict.fromkeys(labels, "unknown")
        return Series(
            self._counters.counter("istio_requests_total", labels),
            self._counters.histogram(
                "istio_request_duration_milliseconds", labels, DURATION_BOUNDS
            ),
        )

    def _labels(self, entry: Entry, action: Action | None, who: str, peer: Facts) -> dict[str, str]:
        if entry.inbound and action is not None and action.local is not None:
            here, principal = action.local
            source, destination = (peer, who), (here, principal)
        else:
            own = entry.caller.facts if entry.caller is not None else UNKNOWN
            source, destination = (own, who), (peer, "")
        host = action.destination if action is not None else None
        return {
            "reporter": entry.reporter,
            **_side("source", *source),
            **_side("destination", *destination),
            "destination_service": host.host if host else "unknown",
            "destination_service_name": host.service if host else "unknown",
            "destination_service_namespace": host.namespace if host else "unknown",
            "request_protocol": "http",
            "connection_security_policy": _security(entry),
            "grpc_response_status": "",
        }

    # Our own counters

    def bump(self, name: str, by: int = 1, **labels: str) -> None:
        """``meshd_<name>_total`` + `by`."""
        key = (name, *labels.values())
        offset = self._plain.get(key)
        if offset is None:
            offset = self._plain[key] = self._counters.counter(f"meshd_{name}_total", labels)
        self._cells[offset] += by

    def gauges(self) -> None:
        """What is a state and not a sum: written once a second."""
        ctx = self._ctx
        self._gauge("meshd_connections", ctx.connections)
        self._gauge("meshd_fibers", len(ctx.loop.fibers))
        self._gauge("meshd_upstream_connections", ctx.upstream_connections())
        self._gauge("meshd_upstream_idle_connections", ctx.upstream_idle())
        self._gauge("meshd_requests_in_flight", ctx.watch.in_flight)

    def _gauge(self, name: str, value: int) -> None:
        offset = self._plain.get((name,))
        if offset is None:
            offset = self._plain[name,] = self._counters.gauge(name)
        self._cells[offset] = value


_SUM = len(DURATION_BOUNDS) + 1
"""A histogram's cells: one a bound, one for +Inf, then the sum in microseconds."""


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
