"""What is remembered of a TCP connection: four metrics and a log line.

A connection may live for days, so its bytes are counted while it lives, every
REPORT_SECONDS; only the log line waits for its end.  As with Istio, what is under
way has response_flags "-", and the end is counted with the flags it had.
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING

from meshd.worker.series import LabelSets, Local, Place
from meshkit.snapshot.types import OutboundHost
from meshkit.telemetry.accesslog import Facts as LineFacts
from meshkit.telemetry.accesslog import Stamps, format_entry, line_format

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.entry import Entry

REPORT_SECONDS = 5
"""Between two looks at the bytes of a connection that lives (Istio's default)."""

MAX_PLACES = 5_000
"""Label sets remembered with their offsets; beyond, all are looked up anew."""

_LIVING = (
    "istio_tcp_connections_opened_total",
    "istio_tcp_received_bytes_total",
    "istio_tcp_sent_bytes_total",
)
_CLOSED = ("istio_tcp_connections_closed_total",)


class TCPRecord:
    """A connection as telemetry sees it; whoever serves it fills in what it learns.

    ``entry`` says who is at the other end (addresses, identities, SNI).  A record
    goes to `Recorder.opened` when its upstream is connected (or never), and to
    `Recorder.connection` once, at its end.
    """

    route_name = ""
    cluster_name = ""
    destination: OutboundHost | None = None
    """Whose service it is; None = no route."""
    local: Local | None = None
    """Inbound: facts and identity of the workload (as in `Action.local`)."""
    peer_facts = b""
    """Raw value of what the other meshd says of its workload; b"" = nothing."""
    server_name = ""
    """SNI of a TLS connection that passes through; "" = the entry's."""
    upstream = b"-"
    """address:port of the endpoint."""
    upstream_local = b"-"
    bytes_in = 0
    """From the client, so far.  A property where the mover counts elsewhere."""
    bytes_out = 0
    """To the client, so far."""
    flags = "-"
    """UF no connection upstream, UH no healthy endpoint, NR no route, UO too many, DC the
    client broke off, UC the upstream did, SI idle for too long (docs/flags.md)."""
    details = ""
    """The reason of what we ended (a key of REPLIES where one fits); "" = by the peers."""
    termination = ""
    """connection_termination_details: what a rule or limit ended it for."""
    failure = ""
    """upstream_transport_failure_reason, one line for a person."""

    _opened = False
    _told_in = 0
    _told_out = 0

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.started = monotonic()

    def place(self) -> Place:
        entry = self.entry
        return Place(entry, self.destination, self.local, entry.who, self.peer_facts)


class TCPRecorder:
    """Counts and logs the TCP connections of one worker."""

    def __init__(self, ctx: WorkerContext, sets: LabelSets, stamps: Stamps) -> None:
        self._ctx = ctx
        self._cells = ctx.counters.cells
        self._sets = sets
        self._stamps = stamps
        self._live: dict[TCPRecord, None] = {}
        self._offsets: dict[object, tuple[int, ...]] = {}
        self._looks = 0

    def opened(self, tcp: TCPRecord) -> None:
        """Its upstream is connected: count it, and its bytes from now on."""
        tcp._opened = True
        self._cells[self._find(tcp)[0]] += 1
        self._live[tcp] = None

    def closed(self, tcp: TCPRecord) -> None:
        """It has ended, or could not be served."""
        if not tcp._opened:
            self._cells[self._find(tcp)[0]] += 1
        self._live.pop(tcp, None)
        self._bytes(tcp)
        self._cells[self._find(tcp, tcp.flags)[0]] += 1
        if self._ctx.log.enabled:
            self._log(tcp)

    def sweep(self) -> None:
        """Once a second; every REPORT_SECONDS the bytes of all that live are counted."""
        self._looks += 1
        if self._looks % REPORT_SECONDS == 0:
            for tcp in self._live:
                self._bytes(tcp)

    def _bytes(self, tcp: TCPRecord) -> None:
        _, received, sent_bytes = self._find(tcp)
        got, sent = tcp.bytes_in, tcp.bytes_out
        self._cells[received] += got - tcp._told_in
        self._cells[sent_bytes] += sent - tcp._told_out
        tcp._told_in, tcp._told_out = got, sent

    def _find(self, tcp: TCPRecord, ended: str = "") -> tuple[int, ...]:
        """The counters' offsets: _LIVING, or _CLOSED of what ended with these flags."""
        entry, host = tcp.entry, tcp.destination
        place = (host.host if host else "", tcp.local, entry.who, tcp.peer_facts)
        key = (entry.reporter, entry.caller, entry.mesh_peer, *place, ended)
        known = self._offsets.get(key)
        if known is not None:
            return known
        if tcp.peer_facts:
            peer = entry.who if entry.inbound else (tcp.cluster_name, tcp.upstream)
            if not self._sets.is_counted(peer, tcp.peer_facts):
                tcp.peer_facts = b""
                return self._find(tcp, ended)
        if len(self._offsets) >= MAX_PLACES:
            self._offsets.clear()
        names = _CLOSED if ended else _LIVING
        offsets = self._sets.stream(names, tcp.place(), "tcp", ended or "-")
        self._offsets[key] = offsets
        return offsets

    def _log(self, tcp: TCPRecord) -> None:
        duration = monotonic() - tcp.started
        self._ctx.log.add(
            format_entry(
                _line(tcp),
                self._stamps.timestamp(time() - duration),
                b"-",
                0,
                tcp.bytes_in,
                tcp.bytes_out,
                int(duration * 1000),
                -1,
                b"-",
                tcp.upstream_local,
            )
        )


def _line(tcp: TCPRecord) -> bytes:
    entry = tcp.entry
    return line_format(
        LineFacts(
            route_name=tcp.route_name,
            upstream_cluster=tcp.cluster_name,
            local=entry.local,
            remote=entry.remote,
            server_name=tcp.server_name or entry.sni,
            protocol=b"-",
            flags=tcp.flags,
            details=tcp.details,
            upstream_host=tcp.upstream,
            failure=tcp.failure,
            termination=tcp.termination,
        )
    )
