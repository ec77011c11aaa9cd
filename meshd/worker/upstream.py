"""Connections to where requests go: local applications and other hosts' meshd.

A `Pool` of HTTP/1.1 holds the idle connections from one identity to one endpoint.  Idle ones
are taken last-in first-out, so that the surplus ages and is closed; the limits
stay under the receiver's own idle limit, and a connection that died meanwhile
is noticed when it is taken (its descriptor has an event) or, at worst, by the
reset that the safety rule of `meshkit.balance.retry` knows how to judge.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from meshd.worker.credentials import NoCredentials
from meshd.worker.loop import DeadlineExceeded, Loop
from meshd.worker.stream import Stream, connect, start_tls
from meshkit.http.h1 import ResponseReader

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext

MAX_AGE = 3600.0
"""A connection is not reused after an hour: certificates and balance move on."""


class ConnectFailed(Exception):
    """No connection: `outcome` for the retry verdict, `reason` for people and counters."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class Connection:
    """One upstream connection and its response reader."""

    __slots__ = ("born", "idle_since", "local", "pool", "reader", "stream")

    def __init__(self, pool: Pool, stream: Stream, reader: ResponseReader, now: float) -> None:
        self.pool = pool
        self.stream = stream
        self.reader = reader
        host, port, *_ = stream.sock.getsockname()
        self.local = f"{host}:{port}".encode()
        """Our end, for the access log; asked once."""
        self.born = now
        self.idle_since = now


class Dialer:
    """How connections from `identity` ("" = plaintext) to address:port are made and counted.

    ``accounts``: the SPIFFE ids that may answer (secure naming).
    """

    __slots__ = (
        "__weakref__",
        "_ctx",
        "_loop",
        "accounts",
        "address",
        "address_text",
        "identity",
        "open_count",
        "port",
        "sni",
    )

    alpn = "http/1.1"

    def __init__(
        self,
        ctx: WorkerContext,
        identity: str,
        address: str,
        port: int,
        sni: str,
        accounts: frozenset[str],
    ) -> None:
        self._ctx = ctx
        self._loop = ctx.loop
        self.identity = identity
        self.address = address
        self.port = port
        self.sni = sni
        self.accounts = accounts
        self.open_count = 0
        self.address_text = f"{address}:{port}".encode()

    @property
    def idle_count(self) -> int:
        """Connections that carry nothing now."""
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        """Close what has been idle too long or has ended; called every second."""
        raise NotImplementedError

    async def dial(self, timeout: float) -> Stream:
        """A new connection, verified.  Raises ConnectFailed; the caller's deadline holds too."""
        ctx = self._ctx
        try:
            stream = await connect(ctx.loop, self.address, self.port, timeout=timeout)
        except OSError as error:
            raise ConnectFailed(
                "connect-failure", f"{self._where()}: {error.strerror or error}"
            ) from error
        if self.sni:
            try:
                await self._secure(stream, timeout)
            except BaseException:
                stream.close()
                raise
        self.open_count += 1
        ctx.opened(self)
        ctx.bump("upstream_connections")
        return stream

    def gone(self, stream: Stream) -> None:
        """A connection that `dial` made is closed."""
        self.open_count -= 1
        self._ctx.forget_tls(stream)

    def speaks(self, agreed: str | None) -> bool:
        """Whether what ALPN agreed on is what this pool is for."""
        return agreed == self.alpn or self.alpn == "http/1.1"

    def _where(self) -> str:
        return f"{self.address}:{self.port}"

    async def _secure(self, stream: Stream, timeout: float) -> None:
        ctx = self._ctx
        if not self.accounts:
            raise ConnectFailed(
                "secure-naming",
                "no account may serve this service: nobody declared it to the policy server",
            )
        try:
            context = ctx.credentials.mesh_client(self.identity, self.alpn)
            await within(
                ctx.loop,
                timeout,
                start_tls(stream, context, server_side=False, server_hostname=self.sni),
            )
        except NoCredentials as error:
            raise ConnectFailed("no-credentials", str(error)) from error
        except OSError as error:
            ctx.bump("handshake_failures", side="client", reason=tls_reason(error))
            ctx.refused("upstream_handshake", detail=f"{self._where()}: {tls_reason(error)}")
            raise ConnectFailed(
                "connect-failure", f"{self._where()}: TLS: {tls_reason(error)}"
            ) from error
        if not self.speaks(stream.alpn()):
            raise ConnectFailed("connect-failure", f"{self._where()}: speaks no {self.alpn}")
        chain = tuple(stream.peer_chain())
        verdict = ctx.judge.verdict(chain)
        reason = verdict.refusal_at(ctx.wall(), self.accounts)
        if reason:
            detail = verdict.detail or verdict.identity
            if reason == "unexpected_identity":
                expected = " or ".join(sorted(self.accounts))
                detail = f"{verdict.identity} may not serve it; expected {expected}"
            ctx.refused(reason, detail=f"{self._where()}: {detail}", sni=self.sni)
            raise ConnectFailed("secure-naming", f"{self._where()}: {reason}: {detail}")
        ctx.remember_tls(stream, chain)


class Pool(Dialer):
    """Idle HTTP/1.1 connections, each carrying one request at a time."""

    __slots__ = ("idle",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.idle: list[Connection] = []

    @property
    def idle_count(self) -> int:
        return len(self.idle)

    def take(self) -> Connection | None:
        """An idle connection that still looks alive, or None."""
        idle = self.idle
        while idle:
            conn = idle.pop()
            stream = conn.stream
            if conn.idle_since == self._loop.now and not self.sni:
                # Given back within this turn: the loop has not heard of what came since, such
                # as the rest of an answer that is longer than it said.  Ask the kernel.
                stream.readable = True
            # Readable while idle: the peer closed, or sent bytes that nobody asked for.
            if stream.closed or (stream.readable and stream.readable_now()):
                self.discard(conn)
                continue
            return conn
        return None

    def give(self, conn: Connection, now: float) -> None:
        """Put back after a whole response; or close it if it has served long enough."""
        if now - conn.born > MAX_AGE or conn.stream.closed:
            self.discard(conn)
            return
        conn.idle_since = now
        self.idle.append(conn)

    def discard(self, conn: Connection) -> None:
        if not conn.stream.closed:
            conn.stream.close()
        self.gone(conn.stream)

    def sweep(self, now: float) -> None:
        """Close what has been idle too long or has ended; called every second."""
        keep = []
        limits = self._ctx.limits
        idle_limit = limits.upstream_idle_mesh if self.sni else limits.upstream_idle_local
        for conn in self.idle:
            ended = conn.stream.hup or conn.stream.closed
            if ended or now - conn.idle_since > idle_limit:
                self.discard(conn)
            else:
                keep.append(conn)
        self.idle = keep

    async def open(self, timeout: float) -> Connection:
        """A connection of its own for one request."""
        stream = await self.dial(timeout)
        return Connection(self, stream, ResponseReader(self._ctx.limits), self._loop.now)


async def within(loop: Loop, seconds: float, work: Awaitable[None]) -> None:
    """Await `work`, at most so long: TimeoutError.  An earlier deadline of the fiber holds."""
    fiber = loop.current
    outer, limit = fiber.expires, loop.now + seconds
    if outer and outer <= limit:
        await work
        return
    fiber.expires = limit
    loop.arm(fiber)
    try:
        await work
    except DeadlineExceeded:
        raise TimeoutError("timed out") from None
    finally:
        fiber.expires = outer
        loop.arm(fiber)


def tls_reason(error: OSError) -> str:
    """OpenSSL's reason without its file and line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "handshake failed").replace("_", " ").lower()
    return error.strerror or str(error) or "connection closed"
