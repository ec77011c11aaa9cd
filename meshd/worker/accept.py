"""From an accepted socket to a served connection: who is it, and what may it reach.

The TLS context is chosen before TLS begins, from the SNI of a ClientHello read
with MSG_PEEK: `ssl`'s own SNI callback would switch the certificate but not
whether a client certificate is asked for.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from meshd.worker.admission import source_of
from meshd.worker.credentials import HTTP_ALPN, TCP_ALPN, NoCredentials
from meshd.worker.downstream import Downstream
from meshd.worker.entry import (
    EdgeEntry,
    Entry,
    LocalEntry,
    OutboundEntry,
    pick_server,
)
from meshd.worker.h2_server import H2Downstream
from meshd.worker.loop import DeadlineExceeded
from meshd.worker.original import original_destination
from meshd.worker.peek import NotServed, hello_of
from meshd.worker.sockdiag import peer_uid
from meshd.worker.stream import Stream, start_tls
from meshd.worker.tcp import TCPConnection
from meshd.worker.tcp_accept import Served, by_declaration, through_edge, to_application, to_service
from meshd.worker.upstream import tls_reason
from meshkit.routing.addresses import find as find_address
from meshkit.routing.names import is_http, is_tcp
from meshkit.snapshot.sni import ANY_INSTANCE, parse_mesh_sni, sni_label
from meshkit.snapshot.types import EdgeServer, ListenerSpec, Workload, WorkloadPort

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext

Address = tuple[str, int]


def text(address: tuple[object, ...]) -> str:
    host = str(address[0])
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


class OverLimit(Exception):
    """Close this connection: it is beyond a limit.  Counted, never logged: floods end here."""


async def serve(ctx: WorkerContext, spec: ListenerSpec, sock: socket.socket, source: str) -> None:
    """The fiber of one connection that was admitted, whatever its listener's kind."""
    stream = None
    fiber = ctx.loop.current
    try:
        try:
            stream = Stream(ctx.loop, sock)
            local, remote = sock.getsockname(), sock.getpeername()
            fiber.expires = ctx.loop.now + ctx.limits_for(spec).tls_handshake
            ctx.loop.arm(fiber)
            served = await _KINDS[spec.kind](ctx, spec, stream, local, remote)
            fiber.expires = 0.0
        except OverLimit as error:
            ctx.limit(str(error))
            return
        except NotServed as error:
            if stream is None or stream.closed:
                return  # to make room for a newer one
            ctx.refused(error.reason, detail=error.detail, listener=spec.id)
            if error.reset:
                stream.abort()
            return
        except DeadlineExceeded:
            ctx.limit("handshake_timeout")
            return
        except OSError:
            return  # gone before it said anything
        if isinstance(served, TCPConnection):
            await served.run()
        else:
            await _converse(ctx, stream, served)
    finally:
        ctx.admission.leave(spec, source)
        if stream is None:
            sock.close()
        else:
            ctx.admission.handshaken(stream)
            ctx.forget_tls(stream)
            stream.close()


async def _converse(ctx: WorkerContext, stream: Stream, entry: Entry) -> None:
    """In the version that TLS agreed on; without TLS, the one that the client begins with."""
    if stream.alpn() == "h2":
        await H2Downstream(ctx, stream, entry).run()
        return
    read = [await _http1(ctx, stream, entry)]
    if read[0]:
        # Handed over: a name of ours would keep it, up to 64 KiB, as long as the connection lives.
        await H2Downstream(ctx, stream, entry).run(read.pop())


async def _http1(ctx: WorkerContext, stream: Stream, entry: Entry) -> bytes:
    """Serve HTTP/1.1; what was read of a client that begins with HTTP/2's preface, else b""."""
    down = Downstream(ctx, stream, entry)
    await down.run()
    return down.preface


def _begin_tls(ctx: WorkerContext, spec: ListenerSpec, stream: Stream, remote: Address) -> None:
    """A handshake costs more CPU than any request.  Raises OverLimit."""
    limits = ctx.limits_for(spec)
    hit = ctx.admission.handshake(stream, source_of(remote[0]), limits, ctx.loop.now)
    if hit == "unfinished_handshakes":
        ctx.limit(hit)
    elif hit:
        raise OverLimit(hit)


async def _handshake(ctx: WorkerContext, stream: Stream, context: ssl.SSLContext) -> None:
    stream.readable = True  # the ClientHello is still in the socket
    try:
        await start_tls(stream, context, server_side=True)
    except OSError as error:
        if not stream.closed:
            ctx.bump("handshake_failures", side="server", reason=tls_reason(error))
        raise NotServed("handshake_failed", tls_reason(error)) from error
    ctx.admission.handshaken(stream)
    ctx.bump("handshakes", side="server")


async def _mesh(
    ctx: WorkerContext, spec: ListenerSpec, stream: Stream, local: Address, remote: Address
) -> Served:
    """mTLS from another host: SNI names the service port, the certificate the caller."""
    _begin_tls(ctx, spec, stream, remote)
    hello = await hello_of(stream)
    if hello.sni is None:
        raise NotServed("no_sni", "the client names no service")
    workload, port = _by_sni(ctx, hello.sni)
    tcp = _is_tcp(port, hello.alpn)
    try:
        context = ctx.credentials.mesh_server(workload.identity, tcp)
    except NoCredentials as error:
        raise NotServed("no_credentials", str(error)) from error
    await _handshake(ctx, stream, context)
    chain = tuple(stream.peer_chain())
    verdict = ctx.judge.verdict(chain)
    reason = verdict.refusal_at(ctx.wall())
    if reason:
        raise NotServed(reason, verdict.detail or verdict.identity)
    ctx.remember_tls(stream, chain)
    entry = ctx.inbound(workload, port, text(local), text(remote), verdict.identity, hello.sni)
    return await to_application(ctx, stream, entry, workload, port) if tcp else entry


def _is_tcp(port: WorkloadPort, offered: tuple[str, ...]) -> bool:
    """Whether bytes will come, and not HTTP: a port takes what it is declared to speak.

    An AUTO port takes both, and the client knows which it has.
    """
    http, tcp = set(offered) & set(HTTP_ALPN), set(offered) & set(TCP_ALPN)
    if http and is_http(port.protocol):
        return False
    if tcp and is_tcp(port.protocol):
        return True
    detail = f"port {port.port} is {port.protocol}, the client offers "
    raise NotServed("no_common_alpn", detail + (", ".join(offered) or "no ALPN"))


def _by_sni(ctx: WorkerContext, sni: str) -> tuple[Workload, WorkloadPort]:
    name = parse_mesh_sni(sni, ctx.config.mesh.domain)
    if name is None:
        raise NotServed("unknown_sni", sni[:255])
    for workload in ctx.config.workloads:
        same = (sni_label(workload.service), sni_label(workload.namespace))
        if same == (name.service, name.namespace):
            if name.instance not in (ANY_INSTANCE, sni_label(workload.instance)):
                continue
            for port in workload.ports:
                if port.port == name.port:
                    return workload, port
    raise NotServed("unknown_sni", sni[:255])


async def _plain(
    ctx: WorkerContext, spec: ListenerSpec, stream: Stream, local: Address, remote: Address
) -> Served:
    """Plaintext on the service's own port: allowed under PERMISSIVE and DISABLE."""
    for workload in ctx.config.workloads:
        if f"{workload.namespace}/{workload.service}" != spec.service:
            continue
        for port in workload.ports:
            if port.port == spec.service_port:
                if port.mode == "STRICT":
                    raise NotServed(
                        "plaintext_under_strict", f"{spec.service} from {text(remote)}", reset=True
                    )
                ctx.bump("plaintext_connections", service=spec.service)
                entry = ctx.inbound(workload, port, text(local), text(remote), "", "")
                if await by_declaration(ctx, stream, spec.protocol) == "HTTP":
                    return entry
                return await to_application(ctx, stream, entry, workload, port)
    raise NotServed("no_workload", spec.service, reset=True)


async def _proxy(
    ctx: WorkerContext, spec: ListenerSpec, stream: Stream, local: Address, remote: Address
) -> Entry:
    """The local HTTP proxy: the caller is the owner of the peer's socket."""
    uid = _caller_uid(stream, local, remote)
    mine = [w for w in ctx.config.workloads if w.uid == uid]
    identities = {w.identity for w in mine}
    if len(identities) == 1:
        return OutboundEntry(ctx, ctx.limits, text(local), text(remote), ctx.caller(mine[0]))
    detail = f"uid {uid} owns no service of this host"
    if identities:
        detail = f"uid {uid} owns services of several identities; give each its own upstreams port"
    return _stranger(ctx, spec, local, remote, detail)


async def _local(
    ctx: WorkerContext, spec: ListenerSpec, stream: Stream, local: Address, remote: Address
) -> Served:
    """An explicit port of one service: only that service's owner may use it."""
    uid = _caller_uid(stream, local, remote)
    for workload in ctx.config.workloads:
        if workload.id == spec.owner and spec.upstream is not None:
            if workload.uid == uid:
                caller = ctx.caller(workload)
                entry = LocalEntry(
                    ctx, ctx.limits, text(local), text(remote), caller, spec.upstream
                )
                return await to_service(ctx, stream, entry, spec.upstream, spec.protocol)
            return _stranger(ctx, spec, local, remote, f"uid {uid} does not own {spec.owner}")
    raise NotServed("no_workload", spec.owner, reset=True)


async def _capture(
    ctx: WorkerContext, spec: ListenerSpec, stream: Stream, local: Address, remote: Address
) -> Served:
    """A redirected connection of one workload: where it meant to go names the service."""
    original = original_destination(stream.sock)
    where = text(original)
    if _is_ours(ctx, original):
        raise NotServed("loop", f"{where} is a port of this meshd", reset=True)
    workload = next((w for w in ctx.config.workloads if w.id == spec.owner), None)
    if workload is None:
        raise NotServed("no_workload", spec.owner, reset=True)
    uid = _caller_uid(stream, original, remote)
    if workload.uid != uid:
        detail = f"uid {uid} does not own {spec.owner}, to {where}"
        raise NotServed("caller_unknown", detail, reset=True)
    found = find_address(ctx.live.addresses(workload.namespace), *original)
    if found is None:
        raise NotServed("unknown_destination", f"{spec.owner} to {where}", reset=True)
    entry = LocalEntry(ctx, ctx.limits, where, text(remote), ctx.caller(workload), found)
    protocol = ctx.declared(workload.namespace, *found)
    return await to_service(ctx, stream, entry, found, protocol, original)


def _is_ours(ctx: WorkerContext, address: Address) -> bool:
    """Whether we would connect to ourselves: one of our own ports, on an address of this host."""
    host, port = address
    for spec in ctx.specs():
        if spec.port == port and spec.address in (host, "0.0.0.0", "::"):
            return spec.address == host or _is_local(host)
    return False


def _is_local(host: str) -> bool:
    """Only addresses of this host can be bound to."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _caller_uid(stream: Stream, local: Address, remote: Address) -> int | None:
    """The uid at the other end of this very connection; None if nobody provably is there.

    A caller that resets its connection frees its port for anybody's next one, whose owner the
    kernel would then name, while the bytes sent before are still to be read.  As long as our
    end is open, the four-tuple cannot be another connection's.
    """
    uid = peer_uid(local, remote)
    state = stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return uid if state in _OPEN_STATES else None


_OPEN_STATES = (1, 8)
"""TCP_ESTABLISHED and TCP_CLOSE_WAIT (linux/tcp_states.h)."""


def _stranger(
    ctx: WorkerContext, spec: ListenerSpec, local: Address, remote: Address, detail: str
) -> Entry:
    """HTTP clients deserve an HTTP answer: each request gets 403 and the reason."""
    if spec.protocol != "HTTP":
        raise NotServed("caller_unknown", detail, reset=True)
    ctx.refused("caller_unknown", detail=detail, listener=spec.id)
    return StrangerEntry(ctx, ctx.limits, text(local), text(remote))


class StrangerEntry(Entry):
    """A local process that is no declared service: everything is refused."""

    refusal = "caller_unknown"


async def _edge(
    ctx: WorkerContext, spec: ListenerSpec, stream: Stream, local: Address, remote: Address
) -> Served:
    """A gateway's port: the server by SNI where it is TLS, by Host where it is not."""
    servers = ctx.edge_servers(spec.id)
    with_tls = tuple(s for s in servers if s.certificate or s.passthrough)
    chosen, sni = None, None
    if with_tls:
        _begin_tls(ctx, spec, stream, remote)
        sni = (await hello_of(stream)).sni
        chosen = pick_server(with_tls, sni or "")
        if chosen is None:
            raise NotServed("unknown_sni", sni or "no SNI")
        if not chosen.passthrough:
            await _handshake(ctx, stream, _edge_context(ctx, chosen))
        ctx.admission.handshaken(stream)
    elif spec.protocol != "HTTP":
        if not servers:
            raise NotServed("no_server", "no Gateway has this port any more", reset=True)
        chosen = servers[0]
    limits = ctx.limits_for(spec)
    where = text(local), text(remote)
    entry = EdgeEntry(ctx, limits, *where, ctx.edge_caller(), spec.id, chosen)
    if chosen is not None and (chosen.passthrough or chosen.protocol == "TCP"):
        return through_edge(ctx, stream, entry, chosen, sni)
    return entry


def _edge_context(ctx: WorkerContext, server: EdgeServer) -> ssl.SSLContext:
    tcp = server.protocol == "TCP"
    try:
        version = server.min_protocol_version
        return ctx.credentials.edge_server(server.certificate, version, tcp)
    except NoCredentials as error:
        raise NotServed("no_credentials", str(error)) from error


_Kind = Callable[["WorkerContext", ListenerSpec, Stream, Address, Address], Awaitable[Served]]
_KINDS: dict[str, _Kind] = {
    "mesh": _mesh,
    "plain": _plain,
    "proxy": _proxy,
    "local": _local,
    "edge": _edge,
    "capture": _capture,
}
