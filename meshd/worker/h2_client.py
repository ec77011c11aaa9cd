"""HTTP/2 to where requests go: other hosts' meshd, and applications that expect it.

A pool holds few connections, for each carries up to 100 requests at once.  The
first that has room takes a request, so that surplus connections fall idle and
are closed; where none has room one is opened, and whoever comes meanwhile waits
for the same.

What a stream's end means for a repetition (`meshkit.balance.retry`): a stream
that its peer refused, by REFUSED_STREAM or by a GOAWAY below it, was never looked
at; one whose connection died before its request had left was never seen.  A
connection that dies without a word takes its neighbours out of the pool with it:
of a killed process the kernel closes them one after another.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from types import coroutine
from typing import TYPE_CHECKING, Any

from meshd.worker.fiber import Fiber
from meshd.worker.h2_connection import H2Connection
from meshd.worker.streams import UpstreamFailed
from meshd.worker.upstream import MAX_AGE, ConnectFailed, Dialer
from meshkit.http.errors import HTTPError
from meshkit.http.fields import Field
from meshkit.http.h1 import RequestHead, ResponseHead
from meshkit.http.h2 import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    GoingAway,
    H2Error,
    StreamsExhausted,
)
from meshkit.http.h2_head import StreamError, response_head, trailer_fields
from meshkit.http.h2_recall import LastResponse

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.stream import Stream


_SCHEME = (b":scheme", b"http")
"""Of the target: applications that look at it serve cleartext, and the mesh adds the TLS."""
_TE = (b"te", b"trailers")
_NO_SETTINGS = "closed before its SETTINGS, as HTTP/1.1 does: if it is, declare its port HTTP"
_BODY_METHODS = frozenset((b"POST", b"PUT", b"PATCH"))


class H2Upstream:
    """One stream: a request to an endpoint, and its answer (`streams.Upstream`)."""

    # Class-level defaults instead of slots: an answer that comes whole changes half of them.
    id = 0
    method = b""
    response: ResponseHead | None = None
    error: UpstreamFailed | HTTPError | None = None
    trailers: Sequence[Field] = ()
    ended = False
    heads = 0
    """Interim ones that came."""
    _interim: Sequence[ResponseHead] = ()
    waiter: Fiber | None = None
    done = False
    _unpaid = 0
    """Of the piece in hand, whose credit the endpoint has not got back."""

    def __init__(self, conn: H2Client) -> None:
        self.conn = conn
        self.pool = conn.pool
        self.local = conn.local
        self.inbox: list[bytes] = []

    # The request

    def begin(
        self,
        head: RequestHead,
        path: bytes,
        fields: Sequence[Field],
        added: Sequence[Field],
        payload: bytes,
        more: bool,
    ) -> None:
        conn = self.conn
        self.method = method = head.method
        # `request_fields`, written out: these were judged, and hold nothing of a connection.
        wire = [
            (b":method", method),
            _SCHEME,
            (b":path", path),
            (b":authority", head.authority),
            *fields,
        ]
        body = head.body
        if body > 0 or (not body and method in _BODY_METHODS):
            wire.append((b"content-length", b"%d" % body))
        if head.trailers_ok:
            wire.append(_TE)
        wire += added  # last: what is new in each request is told apart by its place
        try:
            self.id = stream = conn.engine.request(wire, not (more or payload))
        except (GoingAway, StreamsExhausted) as error:
            self.done = True
            raise UpstreamFailed("refused-stream", "upstream_reset", str(error)) from None
        conn.streams[stream] = self
        if payload:
            conn.engine.send(stream, payload, not more)
        if not conn.dirty:
            conn.dirty = True
            conn.loop.dirty.append(conn)

    async def send(self, data: bytes) -> None:
        """Raises UpstreamFailed, or StreamClosed once the connection is lost."""
        conn, stream = self.conn, self.id
        if self.error is not None:
            raise self.error
        conn.engine.send(stream, data, False)
        conn.touch()
        if conn.engine.queued(stream) > conn.high:
            await conn.room(stream)

    async def end(self, trailers: Sequence[Field]) -> None:
        conn = self.conn
        if trailers:
            conn.engine.trailers(self.id, trailers)
        else:
            conn.engine.end(self.id)
        conn.touch()

    # The answer

    def head(self) -> ResponseHead | None:
        if self._interim:
            first, *self._interim = self._interim
            return first
        if self.response is None and self.error is not None:
            raise self.error
        return self.response

    @coroutine
    def wait(self) -> Generator[None, Any, None]:
        self.waiter = self.conn.loop.about_to_park()
        try:
            yield
        finally:
            self.waiter = None

    def whole(self, response: ResponseHead) -> bytes | None:
        if not self.ended:
            return None
        inbox = self.inbox
        if not inbox:
            return b""
        data = inbox[0] if len(inbox) == 1 else b"".join(inbox)
        inbox.clear()
        self.conn.engine.taken(self.id, len(data))
        return data

    def take(self) -> bytes | None:
        if self.inbox:
            data = self.inbox.pop(0)
            self._unpaid = len(data)
            return data
        if self.ended:
            return b""
        if self.error is not None:
            raise self.error
        return None

    def took(self, size: int) -> None:
        self._unpaid = 0
        self.conn.engine.taken(self.id, size)
        self.conn.touch()

    # The end

    def stop(self) -> None:
        self.fail(UpstreamFailed("gone", "upstream_reset", "the client left", CANCEL))

    def release(self, response: ResponseHead, sent: bool) -> None:
        self.done = True
        if not sent:
            self._reset(CANCEL)

    def abandon(self) -> None:
        if self.done:
            return
        self.done = True
        dropped = sum(map(len, self.inbox)) + self._unpaid
        self.inbox.clear()
        if dropped:  # else the window of a connection that others share would shrink for good
            self.conn.engine.taken(self.id, dropped)
        if self.id:
            self._reset(CANCEL)

    def _reset(self, code: int) -> None:
        self.conn.engine.reset(self.id, code)
        self.conn.touch()

    # Called by the connection

    def wake(self) -> None:
        if self.waiter is not None:
            self.conn.loop.unpark(self.waiter)

    def fail(self, error: UpstreamFailed | HTTPError) -> None:
        """What came before is still given out; then this is raised."""
        if self.error is None and not self.ended:
            self.error = error
            self.wake()

    def add_interim(self, head: ResponseHead, most: int) -> None:
        self.heads += 1
        if self.heads > most:
            raise HTTPError(502, "too_many_interim", "too many 1xx responses")
        self._interim = [*self._interim, head]
        self.wake()


class H2Client(H2Connection):
    """A connection to one endpoint, and the streams on it."""

    __slots__ = (
        *("_askers", "_greeted", "_seen", "born", "last", "local", "pool"),
        "streams",
    )

    def __init__(self, ctx: WorkerContext, stream: Stream, pool: H2Pool) -> None:
        super().__init__(ctx, stream, "client", ctx.limits)
        self.pool = pool
        self.streams: dict[int, H2Upstream] = {}
        self.born = ctx.loop.now
        host, port, *_ = stream.sock.getsockname()
        self.local = f"{host}:{port}".encode()
        self.last = LastResponse()
        self._seen = False
        """Something came of the peer: it speaks HTTP/2, and took our certificate."""
        self._greeted = False
        self._askers: list[Fiber] = []

    async def run(self) -> None:
        """The reader fiber, for the connection's whole life."""
        try:
            await self.read()
            self.lose(ConnectionResetError("closed by the peer") if self.streams else None)
        except H2Error as error:
            self.flush()
            self._fail_all(
                UpstreamFailed("protocol-error", "upstream_protocol_error", error.message)
            )
            self.lose(None)
        except OSError as error:
            self.lose(error)
        finally:
            self.lose(None)
            self.engine.detach()

    def _fail_all(self, error: UpstreamFailed) -> None:
        for up in list(self.streams.values()):
            up.fail(error)

    def lost(self, error: OSError | None) -> None:
        """Streams fail, each with what is known of how far it came."""
        self.pool.remove(self, abrupt=error is not None)
        self._answer_askers()
        text = str(error or "closed")
        alert = self.stream.tls_alert and not self._seen
        for up in list(self.streams.values()):
            if alert:
                outcome = "tls-alert"
            elif up.response is not None:
                outcome = "reset-after-bytes"
            elif not self._seen and not self.pool.sni:
                outcome = "reset"
            else:
                outcome = "reused-reset"
            up.fail(UpstreamFailed(outcome, "upstream_reset", text))
        self.streams.clear()

    async def takes_connect(self) -> bool:
        """Whether the peer takes extended CONNECT, once it has said so or not."""
        while not self._greeted:
            if self.over:
                raise UpstreamFailed("unsent", "upstream_reset", _NO_SETTINGS)
            fiber = self.loop.current
            self._askers.append(fiber)
            try:
                await self.loop.park()
            finally:
                self._askers.remove(fiber)
        return self.engine.connect_protocol

    def _answer_askers(self) -> None:
        for fiber in self._askers:
            self.loop.unpark(fiber)

    # Sink

    def settings(self) -> None:
        self._greeted = True
        self._answer_askers()

    def response(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        up = self.streams.get(stream)
        if up is None:
            return
        self._seen = True
        try:
            up.response = self.last.head(fields, end, up.method, self.limits)
        except (HTTPError, StreamError) as error:
            self._broken(up, error)
            return
        up.ended = end
        if up.waiter is not None:
            self.loop.unpark(up.waiter)

    def interim(self, stream: int, fields: Sequence[Field]) -> None:
        up = self.streams.get(stream)
        if up is None:
            return
        self._seen = True
        try:
            head = response_head(fields, False, up.method, self.limits)
            up.add_interim(head, self.limits.interim_responses)
        except (HTTPError, StreamError) as error:
            self._broken(up, error)

    def _broken(self, up: H2Upstream, error: HTTPError | StreamError) -> None:
        """The endpoint's mistake ends its stream, and is a 502 for the client."""
        if isinstance(error, StreamError):
            error = HTTPError(502, error.limit, str(error))
        up.fail(error)
        self.engine.reset(up.id, PROTOCOL_ERROR)

    def data(self, stream: int, data: bytes, end: bool) -> None:
        up = self.streams.get(stream)
        if up is None or up.done:
            self.engine.taken(stream, len(data))
            return
        if data:
            up.inbox.append(data)
        if end:
            up.ended = True
        if up.waiter is not None:
            self.loop.unpark(up.waiter)

    def trailers(self, stream: int, fields: Sequence[Field]) -> None:
        up = self.streams.get(stream)
        if up is not None:
            try:
                up.trailers = trailer_fields(fields, self.limits)
            except (HTTPError, StreamError) as error:
                self._broken(up, error)
                return
            up.ended = True
            up.wake()

    def reset(self, stream: int, code: int, ours: bool) -> None:
        up = self.streams.get(stream)
        if up is None:
            return
        if ours:
            up.fail(HTTPError(502, "h2_bad_response", "the answer breaks HTTP/2's rules"))
        elif code == REFUSED_STREAM:
            up.fail(UpstreamFailed("refused-stream", "upstream_reset", "the stream was refused"))
        else:
            outcome = "reset" if up.response is None else "reset-after-bytes"
            code = INTERNAL_ERROR if code == NO_ERROR else code
            detail = f"the stream was reset (HTTP/2 error {code})"
            up.fail(UpstreamFailed(outcome, "upstream_remote_reset", detail, code))

    def closed(self, stream: int) -> None:
        up = self.streams.pop(stream, None)
        if up is not None and not up.ended:
            up.fail(UpstreamFailed("reset", "upstream_reset", "the stream was closed"))
        if not self.streams:
            self.idle_since = self.loop.now
            if self.closing:
                self.touch()

    def goaway(self, last_stream: int, code: int) -> None:
        self.closing = True
        self.pool.remove(self, abrupt=False)
        refused = UpstreamFailed("refused-stream", "upstream_reset", f"GOAWAY (error {code})")
        for stream, up in list(self.streams.items()):
            if stream > last_stream:
                up.fail(refused)
                self.engine.reset(stream, CANCEL)
        self.touch()


class H2Pool(Dialer):
    """Connections from one identity to one endpoint, each shared by many requests."""

    __slots__ = ("_dialing", "_failure", "connections", "leaving")

    alpn = "h2"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: list[H2Client] = []
        """Those that take new streams."""
        self.leaving: set[H2Client] = set()
        """Those that only end what they have."""
        self._dialing: Fiber | None = None
        self._failure: ConnectFailed | None = None

    @property
    def idle_count(self) -> int:
        return sum(1 for conn in self.connections if not conn.streams)

    def lease(self) -> H2Upstream | None:
        """A stream on the first connection that has room; None: `open_lease`."""
        for conn in self.connections:
            if conn.engine.can_open:
                return H2Upstream(conn)
        return None

    async def open_lease(self, timeout: float) -> H2Upstream:
        """Once a connection has room.  Raises ConnectFailed; the caller's deadline holds too."""
        while True:
            up = self.lease()
            if up is not None:
                return up
            if self._dialing is None or self._dialing.done:
                self._dialing = self._ctx.loop.spawn(self._dial(timeout), "h2 dial")
            fiber = self._dialing
            await fiber.join()
            if isinstance(fiber.result, ConnectFailed):
                raise ConnectFailed(fiber.result.outcome, fiber.result.reason)

    async def _dial(self, timeout: float) -> ConnectFailed | None:
        """A fiber of its own: who asked first may leave, and others wait for the same."""
        try:
            stream = await self.dial(timeout)
        except ConnectFailed as error:
            return error
        ctx = self._ctx
        conn = H2Client(ctx, stream, self)
        conn.engine.start()
        conn.touch()
        self.connections.append(conn)
        ctx.loop.spawn(conn.run(), "h2 client")
        return None

    def remove(self, conn: H2Client, abrupt: bool) -> None:
        """No new streams for a connection.  ``abrupt``: nor for its neighbours."""
        for other in list(self.connections) if abrupt else [conn]:
            if other in self.connections:
                self.connections.remove(other)
                self.leaving.add(other)
                if other is not conn:
                    other.retire()
        if conn.over and conn in self.leaving:
            self.leaving.discard(conn)
            self.gone(conn.stream)

    def sweep(self, now: float) -> None:
        """Close what is idle for too long, old or dead; called every second."""
        limits = self._ctx.limits
        idle_limit = limits.upstream_idle_mesh if self.sni else limits.upstream_idle_local
        for conn in [*self.connections, *self.leaving]:
            if not conn.streams:
                conn.last.forget()
            if not conn.is_alive(now):
                self._ctx.limit("http2_ping")
                conn.lose(ConnectionResetError("no answer to a PING"))
            elif now - conn.born > MAX_AGE or (
                not conn.streams and now - conn.idle_since > idle_limit
            ):
                conn.retire()
                self.remove(conn, abrupt=False)
