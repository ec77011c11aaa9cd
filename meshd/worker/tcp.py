"""One TCP connection through the worker: route, connect, join, record.

Nothing is read from the client before the upstream is connected, so a server that speaks
first is never waited for in vain, and a try that could not connect can be repeated on
another endpoint: nothing was sent.  Once bytes flow nothing is repeated.

What cannot be served is reset, never ended: an empty stream would pass for an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshd.worker.pump import Pump
from meshd.worker.record_tcp import TCPRecord
from meshd.worker.tcp_routes import TCPDialer
from meshd.worker.upstream import ConnectFailed
from meshkit.balance.retry import backoff
from meshkit.snapshot.preface import ALPN_TCP, Preface, encode
from meshkit.telemetry.peer import UNKNOWN

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.entry import Entry
    from meshd.worker.routes import Cluster, Target
    from meshd.worker.stream import Stream
    from meshd.worker.tcp_routes import TCPAction

ATTEMPTS = 3
"""Connects before giving up: the first, and as many as Istio's default retries of HTTP."""
BACKOFF = 0.025
"""Base of the pauses between them, as of HTTP."""


class Unserved(Exception):
    """The connection cannot be served; the text is for the log."""

    def __init__(self, flags: str, details: str, detail: str) -> None:
        super().__init__(detail)
        self.flags = flags
        self.details = details


class Record(TCPRecord):
    """What telemetry reads, with the bytes as the pump counts them."""

    pump: Pump | None = None

    @property
    def bytes_in(self) -> int:  # type: ignore[override]
        return 0 if self.pump is None else self.pump.sent

    @property
    def bytes_out(self) -> int:  # type: ignore[override]
        return 0 if self.pump is None else self.pump.received


class TCPConnection:
    """Serves one accepted connection; ``action`` None: there is no route for it.

    ``original``: where the client meant to connect, if it was captured.  ``first``: its
    bytes that were read already.  ``missing``: what there is no route for, in words.
    """

    def __init__(
        self,
        ctx: WorkerContext,
        stream: Stream,
        entry: Entry,
        action: TCPAction | None,
        *,
        sni: str = "",
        peer_facts: bytes = b"",
        original: tuple[str, int] | None = None,
        missing: str = "",
        first: bytes = b"",
    ) -> None:
        self._ctx = ctx
        self._stream = stream
        self._entry = entry
        self._action = action
        self._original = original
        self._missing = missing
        self._first = first
        self._target: Target | None = None
        self._dialer: TCPDialer | None = None
        self.record = record = Record(entry)
        record.server_name = sni
        record.peer_facts = peer_facts

    async def run(self) -> None:
        """Serve it to its end; the stream is closed then."""
        ctx, record = self._ctx, self.record
        ctx.tcp.add(self)
        try:
            await self._join(await self._upstream())
        except Unserved as error:
            record.flags, record.details = error.flags, error.details
            record.failure = str(error)
        finally:
            ctx.tcp.discard(self)
            self._stream.abort()  # if it was not closed in order
            if self._target is not None:
                self._target.active -= 1
            ctx.recorder.connection(record)

    def look_again(self) -> None:
        """The configuration has changed: end what is not allowed any more."""
        reason = self._entry.forbidden()
        if reason and self.record.pump is not None:
            self._forbid(reason)
            self.record.pump.stop("-", reason)

    def _forbid(self, reason: str) -> None:
        self._ctx.refused(reason, detail=f"from {self._entry.remote}")
        self.record.termination = reason

    # The way up

    async def _upstream(self) -> Stream:
        """Connected and introduced.  Raises Unserved."""
        ctx, record = self._ctx, self.record
        if ctx.overload.level > 1:
            ctx.limit("overload_refused")
            raise Unserved("UO", "overloaded", "descriptors are running out")
        action = self._routed()
        record.route_name = action.name
        record.destination, record.local = action.destination, action.local
        choice = action.pick(ctx.random)
        record.cluster_name = choice.cluster_name
        if choice.cluster is None:
            raise Unserved("NC", "cluster_not_found", choice.cluster_name)
        tried: list[Target] = []
        while True:
            target = choice.cluster.balancer.pick(tried)
            if target is None:
                raise Unserved("UH", "no_healthy_upstream", choice.cluster_name)
            try:
                return await self._try(target, choice.cluster)
            except ConnectFailed as error:
                ctx.bump("upstream_connect_failures", reason=error.outcome.replace("-", "_"))
                tried.append(target)
                if error.outcome != "connect-failure" or len(tried) == ATTEMPTS:
                    raise _unconnected(error) from error
                ctx.bump("retries")
                await ctx.loop.sleep(backoff(ctx.random, len(tried), BACKOFF))

    def _routed(self) -> TCPAction:
        if self._action is None:
            missing = f"{self._missing}, from {self._entry.remote}"
            self._ctx.refused("tcp_route_not_found", detail=missing)
            raise Unserved("NR", "route_not_found", self._missing)
        return self._action

    async def _try(self, target: Target, cluster: Cluster) -> Stream:
        """Connected to this endpoint; raises ConnectFailed."""
        dialer = target.dialer(self._entry.identity)
        self.record.upstream = dialer.address_text
        target.active += 1
        try:
            stream = await dialer.dial(cluster.connect_timeout)
            if stream.alpn() == ALPN_TCP:
                self._introduce(dialer, stream)
        except BaseException:
            target.active -= 1
            raise
        self._target, self._dialer = target, dialer
        return stream

    def _introduce(self, dialer: TCPDialer, stream: Stream) -> None:
        """Send the preface, for which a new connection has room.  Raises ConnectFailed."""
        caller = self._entry.caller
        preface = encode(Preface(caller.facts if caller else UNKNOWN, self._original))
        try:
            sent = stream.try_send(preface)
        except OSError:
            sent = 0
        if not sent:
            stream.abort()
            dialer.gone(stream)
            raise ConnectFailed("connect-failure", "closed before the preface")

    # Both ways

    async def _join(self, up: Stream) -> None:
        ctx, record, action = self._ctx, self.record, self._action
        assert action is not None and self._dialer is not None
        reason = self._entry.forbidden()
        if reason:  # since it was accepted, or while it was connected
            self._forbid(reason)
            up.abort()
            self._dialer.gone(up)
            return
        idle = self._entry.limits.tcp_idle if action.idle is None else action.idle
        record.pump = pump = Pump(ctx.loop, self._stream, up, idle=idle, first_up=self._first)
        host, port, *_ = up.sock.getsockname()
        record.upstream_local = f"{host}:{port}".encode()
        ctx.recorder.opened(record)
        try:
            await pump.run()
        finally:
            self._dialer.gone(up)
            self._ended(pump)

    def _ended(self, pump: Pump) -> None:
        record = self.record
        record.flags = pump.flags or "-"
        record.failure = pump.why if pump.flags == "UC" else ""
        if not pump.flags:
            record.termination = "drained"  # cut at the end of a drain
        elif pump.flags == "SI":
            record.details = "stream_idle_timeout"
            self._ctx.limit("tcp_idle")


def _unconnected(error: ConnectFailed) -> Unserved:
    naming = error.outcome == "secure-naming"
    details = "upstream_identity_refused" if naming else "upstream_connection_failure"
    return Unserved("UF", details, error.reason)
