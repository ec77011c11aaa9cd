"""What is remembered of a request: four metrics and a log line.

Every label set is resolved to offsets of the shared counters once (`series`); a
request costs a dict lookup and a handful of additions in place.  The key of that lookup holds
what can differ between requests of one route: who is at the other end, what it
says of itself, status and flags.
"""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic, time
from typing import TYPE_CHECKING

from meshd.worker.record_tcp import TCPRecord, TCPRecorder
from meshd.worker.series import ONE, LabelSets, Place, Series
from meshkit.http.errors import HTTPError
from meshkit.telemetry.accesslog import Facts as LineFacts
from meshkit.telemetry.accesslog import Stamps, format_entry, line_format
from meshkit.telemetry.metrics import DURATION_BOUNDS, SIZE_BUCKETS

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.entry import Entry
    from meshd.worker.exchange import Exchange
    from meshd.worker.routes import Action

__all__ = ["Recorder", "Series", "TCPRecord"]

MAX_LINES = 32
"""Access-log formats kept for one connection; a client that varies its fields starts anew."""

MAX_LINE_BYTES = 2048
"""A longer line is not kept: 32 of the longest would hold a megabyte for one connection."""

_MESSAGES = ("istio_request_messages_total", "istio_response_messages_total")

_DURATION_SUM = len(DURATION_BOUNDS) + 1
"""A histogram's cells: one a bound, one for +Inf, then the sum in microseconds."""


class Recorder:
    """Counters and access log of one worker."""

    def __init__(self, ctx: WorkerContext) -> None:
        self._ctx = ctx
        self._counters = ctx.counters
        self._cells = ctx.counters.cells
        self._stamps = Stamps()
        self._plain: dict[tuple[str, ...], int] = {}
        self._unrouted: dict[object, Series] = {}
        self._messages: dict[object, tuple[int, ...]] = {}
        self._sets = LabelSets(ctx.counters)
        self._tcp = TCPRecorder(ctx, self._sets, self._stamps)
        self.opened = self._tcp.opened
        self.connection = self._tcp.closed
        self.flush = self._sets.flush

    # Requests

    def request(self, x: Exchange) -> None:
        """Count and log a finished request."""
        entry, action = x.entry, x.action
        duration = (monotonic() - x.started) * 1000.0
        who = entry.who
        key: tuple[object, ...] = (who, x.peer_facts, x.status, x.flags)
        if x.grpc:
            self.messages(x)
            key = (*key, x.grpc_status)
        known = self._unrouted if action is None else action.series
        series = known.get(key)
        if series is None:
            series = self._new_series(x, action, known)
        cells = self._cells
        requests, at, got, sent = series
        cells[requests] += 1
        cells[at + bisect_left(DURATION_BOUNDS, duration)] += 1
        cells[at + _DURATION_SUM] += int(duration * 1000.0)
        size = x.bytes_in
        if size:  # `flush` counts the others
            got[SIZE_BUCKETS[size.bit_length()]] += size + ONE
        size = x.bytes_out
        sent[SIZE_BUCKETS[size.bit_length()]] += size + ONE
        if self._ctx.log.enabled:
            self._log(x, entry, int(duration))

    def _log(self, x: Exchange, entry: Entry, duration: int) -> None:
        head, names = x.head, x.names
        # What repeats: the key of a format that has it escaped and in place already.
        key: tuple[object, ...] = (
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
        if x.grpc:
            key = (*key, x.grpc_status)
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
                protocol=b"HTTP/1.0" if x.head.http10 else x.protocol,
                flags=x.flags,
                details=x.details,
                forwarded_for=x.names.get(b"x-forwarded-for", b""),
                user_agent=x.names.get(b"user-agent", b""),
                authority=x.head.authority,
                upstream_host=x.upstream,
                failure=x.failure,
                grpc_status=x.grpc_status if x.grpc else None,
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
            place = Place(entry, None, None, "", b"")
            series = self._sets.request(place, error.status, "DPE", None)
            self._unrouted[key] = series
        self._cells[series[0]] += 1

    def messages(self, x: Exchange) -> None:
        """Count the gRPC messages that have passed since the last call; also while it lives."""
        counts = x.messages_in, x.messages_out
        if x.messages_told == counts:
            return
        known = self._messages if x.action is None else x.action.messages
        key = (x.entry.who, x.peer_facts)
        offsets = known.get(key)
        if offsets is None:
            place = self._place(x, x.action)
            offsets = self._sets.stream(_MESSAGES, place, "grpc")
            known[place.who, place.facts] = offsets
        for offset, count, told in zip(offsets, counts, x.messages_told, strict=True):
            self._cells[offset] += count - told
        x.messages_told = counts

    # Label sets

    def _new_series(
        self, x: Exchange, action: Action | None, known: dict[object, Series]
    ) -> Series:
        """The series of a key that is not known yet; remembered, within bounds."""
        place = self._place(x, action)
        grpc = x.grpc_status if x.grpc else None
        key: tuple[object, ...] = (place.who, place.facts, x.status, x.flags)
        if x.grpc:
            key = (*key, grpc)
        series = known.get(key)
        if series is None:
            series = known[key] = self._sets.request(place, x.status, x.flags, grpc)
        return series

    def _place(self, x: Exchange, action: Action | None) -> Place:
        entry = x.entry
        if x.peer_facts:
            cluster = x.choice.cluster_name if x.choice is not None else ""
            peer = entry.who if entry.inbound else (cluster, x.upstream)
            if not self._sets.is_counted(peer, x.peer_facts):
                x.peer_facts = b""
        if action is None:
            return Place(entry, None, None, entry.who, x.peer_facts)
        return Place(entry, action.destination, action.local, entry.who, x.peer_facts)

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
        self._tcp.sweep()
        self._sets.flush()
        ctx = self._ctx
        self._gauge("meshd_connections", ctx.connections)
        self._gauge("meshd_fibers", len(ctx.loop.fibers))
        self._gauge("meshd_upstream_connections", ctx.upstream_connections())
        self._gauge("meshd_upstream_idle_connections", ctx.upstream_idle())
        self._gauge("meshd_requests_in_flight", ctx.watch.in_flight)
        self._gauge("meshd_tunnels", ctx.tunnels)

    def _gauge(self, name: str, value: int) -> None:
        offset = self._plain.get((name,))
        if offset is None:
            offset = self._plain[name,] = self._counters.gauge(name)
        self._cells[offset] = value
