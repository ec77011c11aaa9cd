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
from meshd.worker.credentials import HTTP_ALPN, NoCredentials
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
from meshd.worker.sockdiag import peer_uid
from meshd.worker.stream import Stream, start_tls
from meshd.worker.upstream import tls_reason
from meshkit.identity.clienthello import ClientHello, ClientHelloError, parse_client_hello
from meshkit.snapshot.sni import ANY_INSTANCE, parse_mesh_sni, sni_label
from meshkit.snapshot.types import ListenerSpec, Workload, WorkloadPort

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext

PEEK_BYTES = 16_384
"""A ClientHello is at most one or a few records; more is no client of ours."""

Address = tuple[str, int]


class NotServed(Exception):
    """Close this connection; `reason` is the counter's label, `detail` for the log."""

    def __init__(self, reason: str, detail: str = "", reset: bool = False) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail
        self.reset = reset


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
            entry = await _KINDS[spec.kind](ctx, spec, stream, local, remote)
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
        await _converse(ctx, stream, entry)
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
    first = b""
    if stream.alpn() != "h2":
        down = Downstream(ctx, stream, entry)
        await down.run()
        first = down.preface
        if not first:
            return
    await H2Downstream(ctx, stream, entry).run(first)


def _begin_tls(ctx: WorkerContext, spec: ListenerSpec, stream: Stream, remote: Address) -> None:
    """A handshake costs more CPU than any request.  Raises OverLimit."""
    limits = ctx.limits_for(spec)
    hit = ctx.admission.handshake(stream, source_of(remote[0]), limits, ctx.loop.now)
    if hit == "unfinished_handshakes":
        ctx.limit(hit)
    elif hit:
        raise OverLimit(hit)


async def _hello(stream: Stream) -> ClientHello:
    """The ClientHello, left in the socket for OpenSSL.  Raises NotServed."""
    while True:
        data = b""
        try:
            data = stream.sock.recv(PEEK_BYTES, socket.MSG_PEEK)
            if not data:
                raise NotServed("no_client_hello", "closed before a ClientHello")
            hello = parse_client_hello(data)
        except BlockingIOError:
            hello = None
        except ClientHelloError as error:
            raise NotServed("bad_client_hello", str(error)) from error
        if hello is not None:
            return hello
        if len(data) >= PEEK_BYTES:
            raise NotServed("bad_client_hello", "ClientHello larger than 16 KiB")
        if stream.hup:
            raise NotServed("no_client_hello", "closed within its ClientHello")
        stream.readable = False  # what is there was seen; more comes with a new edge
        await stream.wait_readable()


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
) -> Entry:
    """mTLS from another host: SNI names the service port, the certificate the caller."""
    _begin_tls(ctx, spec, stream, remote)
    hello = await _hello(stream)
    if hello.sni is None:
        raise NotServed("no_sni", "the client names no service")
    workload, port = _by_sni(ctx, hello.sni)
    if not set(hello.alpn) & set(HTTP_ALPN):
        raise NotServed("no_common_alpn", f"client offers {', '.join(hello.alpn) or 'no ALPN'}")
    try:
        context = ctx.credentials.mesh_server(workload.identity)
    except NoCredentials as error:
        raise NotServed("no_credentials", str(error)) from error
    await _handshake(ctx, stream, context)
    chain = tuple(stream.peer_chain())
    verdict = ctx.judge.verdict(chain)
    reason = verdict.refusal_at(ctx.wall())
    if reason:
        raise NotServed(reason, verdict.detail or verdict.identity)
    ctx.remember_tls(stream, chain)
    return ctx.inbound(workload, port, text(local), text(remote), verdict.identity, hello.sni)


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
) -> Entry:
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
                return ctx.inbound(workload, port, text(local), text(remote), "", "")
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
) -> Entry:
    """An explicit port of one service: only that service's owner may use it."""
    uid = _caller_uid(stream, local, remote)
    for workload in ctx.config.workloads:
        if workload.id == spec.owner and spec.upstream is not None:
            if workload.uid == uid:
                return LocalEntry(
                    ctx, ctx.limits, text(local), text(remote), ctx.caller(workload), spec.upstream
                )
            return _stranger(ctx, spec, local, remote, f"uid {uid} does not own {spec.owner}")
    raise NotServed("no_workload", spec.owner, reset=True)


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
    ctx.refused("caller_unknown", detail=detail, listener=spec.id)
    return StrangerEntry(ctx, ctx.limits, text(local), text(remote))


class StrangerEntry(Entry):
    """A local process that is no declared service: everything is refused."""

    refusal = "caller_unknown"


async def _edge(
    ctx: WorkerContext, spec: ListenerSpec, stream: Stream, local: Address, remote: Address
) -> Entry:
    """A gateway's port: the server by SNI where it is TLS, by Host where it is not."""
    servers = ctx.edge_servers(spec.id)
    chosen = None
    if any(s.certificate for s in servers):
        _begin_tls(ctx, spec, stream, remote)
        hello = await _hello(stream)
        chosen = pick_server(tuple(s for s in servers if s.certificate), (hello.sni or "").lower())
        if chosen is None:
            raise NotServed("unknown_sni", hello.sni or "no SNI")
        try:
            context = ctx.credentials.edge_server(chosen.certificate, chosen.min_protocol_version)
        except NoCredentials as error:
            raise NotServed("no_credentials", str(error)) from error
        await _handshake(ctx, stream, context)
    limits = ctx.limits_for(spec)
    return EdgeEntry(ctx, limits, text(local), text(remote), ctx.edge_caller(), spec.id, chosen)


_Kind = Callable[["WorkerContext", ListenerSpec, Stream, Address, Address], Awaitable[Entry]]
_KINDS: dict[str, _Kind] = {
    "mesh": _mesh,
    "plain": _plain,
    "proxy": _proxy,
    "local": _local,
    "edge": _edge,
}
