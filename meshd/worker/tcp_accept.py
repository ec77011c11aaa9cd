"""Which TCP route an accepted connection takes, and what has to be read to tell.

Only a ClientHello (TLS, to be routed by name), an AUTO port's first bytes and the preface
of another meshd are waited for; else the upstream is connected at once, because its
server may be the one to speak first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshd.worker.entry import EdgeEntry, Entry, InboundEntry, OutboundEntry
from meshd.worker.loop import DeadlineExceeded
from meshd.worker.peek import NotServed, hello_of, protocol_of
from meshd.worker.stream import Stream
from meshd.worker.tcp import TCPConnection
from meshd.worker.tcp_routes import inbound
from meshkit.snapshot.preface import ALPN_TCP, Preface, PrefaceError, decode, frame_bytes
from meshkit.snapshot.types import EdgeServer, Workload, WorkloadPort
from meshkit.telemetry.peer import UNKNOWN, encode_facts

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.routes import VirtualHost

Served = Entry | TCPConnection
"""What an accepted connection turned out to be: HTTP through an entry, or bytes."""


async def to_application(
    ctx: WorkerContext,
    stream: Stream,
    entry: InboundEntry,
    workload: Workload,
    port: WorkloadPort,
) -> TCPConnection:
    """Inbound, to a local application's port; from a meshd, its preface comes first."""
    facts, rest = b"", b""
    if stream.alpn() == ALPN_TCP:
        preface, rest = await _preface(ctx, stream)
        facts = b"" if preface.facts == UNKNOWN else encode_facts(preface.facts)
    action = inbound(ctx.inbound_action(workload, port))
    return TCPConnection(ctx, stream, entry, action, peer_facts=facts, first=rest)


async def _preface(ctx: WorkerContext, stream: Stream) -> tuple[Preface, bytes]:
    """The peer's preface, and what came behind it.  Raises NotServed."""
    data = b""
    try:
        while True:
            piece = await stream.recv()
            if not piece:
                raise NotServed("no_preface", "closed within its preface")
            data += piece
            size = frame_bytes(data)
            if size is not None and len(data) >= size:
                return decode(data[:size]), data[size:]
    except PrefaceError as error:
        ctx.limit(error.code)
        raise NotServed(error.code, str(error), reset=True) from error
    except DeadlineExceeded as error:
        ctx.limit("preface_timeout")
        raise NotServed("preface_timeout", "no preface in time", reset=True) from error


async def by_declaration(ctx: WorkerContext, stream: Stream, declared: str) -> str:
    """HTTP, TLS or TCP: as declared, or for AUTO as the first bytes look."""
    if declared != "AUTO":
        return declared
    seen = await protocol_of(stream, ctx.limits.sniff)
    if seen is None:
        ctx.limit("sniff_timeout")
    return {"http/1.1": "HTTP", "h2": "HTTP", "tls": "TLS"}.get(seen or "", "TCP")


async def to_service(
    ctx: WorkerContext,
    stream: Stream,
    entry: OutboundEntry,
    upstream: tuple[str, int],
    declared: str,
    original: tuple[str, int] | None = None,
) -> Served:
    """Outbound, to a service port that the listener or the original destination names."""
    protocol = await by_declaration(ctx, stream, declared)
    if protocol == "HTTP":
        return entry
    name, port = upstream
    host = _host(ctx, entry.scope, name)
    sni = None
    if host is not None and (protocol == "TLS" and (declared == "TLS" or host.tcp.by_name(port))):
        fiber, loop = ctx.loop.current, ctx.loop
        fiber.expires = loop.now + ctx.limits.tls_handshake  # a guess has ended its own
        loop.arm(fiber)
        sni = (await hello_of(stream)).sni
    action = None if host is None else host.tcp.find(port, sni)
    missing = f"{name}:{port}" + (f" for server name {sni}" if sni else "")
    return TCPConnection(
        ctx, stream, entry, action, sni=sni or "", original=original, missing=missing
    )


def through_edge(
    ctx: WorkerContext, stream: Stream, entry: EdgeEntry, server: EdgeServer, sni: str | None
) -> TCPConnection:
    """A gateway's TCP: passed-through TLS by its name; else the one host that the server has."""
    if server.passthrough and sni is None:
        raise NotServed("no_sni", "TLS that passes through is routed by its server name")
    name = sni if server.passthrough and sni is not None else "*"
    host = _host(ctx, server.scope, name)
    action = None if host is None else host.tcp.find(0, sni)
    return TCPConnection(ctx, stream, entry, action, sni=sni or "", missing=name)


def _host(ctx: WorkerContext, scope: str, name: str) -> VirtualHost | None:
    table = ctx.live.scopes.get(scope)
    return None if table is None else table.find(name)
