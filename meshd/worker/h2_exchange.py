"""One request on an HTTP/2 stream: the exchange, and what came on the stream.

What differs from HTTP/1.1: nothing here waits for a socket, a failure costs the
stream and not its connection, and gRPC callers get our own answers as statuses of
gRPC (a "trailers-only" response).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from time import monotonic
from types import coroutine
from typing import TYPE_CHECKING, Any

from meshd.worker import upgrade
from meshd.worker.entry import Unroutable
from meshd.worker.exchange import EDGE_MANAGED, Exchange
from meshd.worker.fiber import Cancelled, Fiber
from meshd.worker.loop import DeadlineExceeded
from meshd.worker.streams import Upstream
from meshd.worker.transfer import Look
from meshkit.http.errors import REPLIES, REPLY_HEADERS, HTTPError, reply_body
from meshkit.http.fields import Field
from meshkit.http.framing import NO_LENGTH
from meshkit.http.grpc import (
    MessageCounter,
    is_grpc,
    read_status,
    status_of_reply,
    timeout,
    trailers_only,
)
from meshkit.http.h1 import RequestHead, ResponseHead
from meshkit.http.h2 import CANCEL, INTERNAL_ERROR, NO_ERROR
from meshkit.http.h2_head import passable, response_fields
from meshkit.http.path import canonical
from meshkit.telemetry.trace import valid_request_id

if TYPE_CHECKING:
    from meshd.worker.h2_server import H2Downstream
    from meshd.worker.routes import Action, Choice, Target
    from meshd.worker.streams import TryFailed

_STATUS = {status: (b":status", b"%d" % status) for status in range(100, 600)}


class H2Exchange(Exchange):
    """A request and its answer on one stream."""

    protocol = b"HTTP/2"
    conn: H2Downstream
    fiber: Fiber
    reader: Fiber | None = None
    """Who waits for more of the body."""
    trailers: Sequence[Field] = ()
    over = False
    """Nothing more is sent, or taken, by us."""
    left = False
    """The client has gone."""
    _fields: Sequence[Field] = ()
    _in: MessageCounter | None = None
    _sent: MessageCounter | None = None

    def __init__(
        self, conn: H2Downstream, head: RequestHead, started: float, stream: int, ended: bool
    ) -> None:
        self.conn = conn
        self.head = head
        self.entry = conn.entry
        self.ctx = conn.ctx
        self.started = started
        self.stream = stream
        self.ended = ended
        self.inbox: list[bytes] = []

    def runner(self) -> Fiber:
        return self.fiber

    def look(self) -> Look:
        got, queued = self.bytes_in, self.conn.engine.queued(self.stream)
        done = self.over or (self.ended and not self.inbox)
        return Look(got, got + self.bytes_out - queued, done, self.reader is not None)

    def end_now(self, now: float) -> None:
        if self.over:  # recorded; what is left is an answer that nobody reads
            self.conn.engine.reset(self.stream, CANCEL)
            self.conn.touch()
        else:
            super().end_now(now)

    async def serve(self) -> None:
        """From the head to the record."""
        code = NO_ERROR
        try:
            try:
                action = self._admit()
                failed = await self._stream_try(action, ())
                if failed is not None:
                    await self._after(action, failed)
            except Unroutable as error:
                self.failure = error.detail
                await self._reply(error.reason, error.location)
            except DeadlineExceeded:
                if self.status:
                    raise
                self.failure = self.failure or "route timeout"
                await self._reply(self.overdue)
        except HTTPError as error:
            self._refused(error)
        except Cancelled:
            if not self.left:
                raise
            self.flags, code = "DC", CANCEL
        except DeadlineExceeded:
            self.flags, code = "UT" if self.flags == "-" else self.flags, CANCEL
        except OSError as error:
            if self.flags == "-":
                self.flags, self.failure = "DC", str(error)
            code = self._code
        except BaseException:
            code = INTERNAL_ERROR
            raise
        finally:
            self._end(code)
            self.ctx.record(self)

    async def _try(self, action: Action, tried: Sequence[Target]) -> TryFailed | None:
        """Of `_after`: HTTP/1.1's own try writes to a connection, and this is a stream."""
        return await self._stream_try(action, tried)

    def _end(self, code: int) -> None:
        """The stream's last: an answer that broke off is reset, and so is an unwanted body."""
        self.over = True
        if self._uploader is not None:
            self._uploader.cancel()
        unread = sum(map(len, self.inbox)) + self._unpaid
        if unread:  # else the connection's window would shrink for good
            self._took(unread)
            self.inbox, self._unpaid = [], 0
        if not self.left and (code or not self.ended):
            self.conn.engine.reset(self.stream, code)
            self.conn.touch()

    def leave(self) -> None:
        """Called by the connection: the client reset the stream, or is gone."""
        self.left = True
        self.fiber.cancel()

    def _admit(self) -> Action:
        """As `Exchange._admit`, with fields where that has lines.  Raises HTTPError, Unroutable."""
        head, entry, ctx = self.head, self.entry, self.ctx
        self.path = path = canonical(head.path)
        if head.upgrade:
            upgrade.ask(self)
        self.names = names = dict(head.headers)
        added = entry.upstream_fields
        request_id = names.get(b"x-request-id")
        if request_id is None or (entry.edge and not valid_request_id(request_id)):
            request_id = ctx.request_ids.new()
            added = [*added, (b"x-request-id", request_id)]
        self.request_id = request_id
        if b"traceparent" not in names:
            added = [*added, (b"traceparent", ctx.trace_parents.new())]
        self.headers = head.headers
        if entry.edge:
            self.headers = [
                h
                for h in head.headers
                if h[0] not in EDGE_MANAGED and (h[0] != b"x-request-id" or h[1] == request_id)
            ]
        elif entry.mesh_peer:
            self.peer_facts = head.facts
        self._fields = added
        kind = names.get(b"content-type")
        if kind is not None and is_grpc(kind):
            self.grpc = True
        self.action = action = entry.action(head, path)
        limit = action.timeout
        if self.grpc and b"grpc-timeout" in names:
            asked = timeout(names[b"grpc-timeout"])
            if asked is not None:
                limit = min(limit, asked) if limit else asked
        if limit is not None and (limit or self.grpc):
            fiber = self.fiber
            self.deadline = fiber.expires = ctx.loop.now + limit
            ctx.loop.arm(fiber)
        if head.body:
            self._hold_body()
        return action

    def _hold_body(self) -> None:
        """A body that is whole at hand goes with the head, and can be sent again."""
        inbox = self.inbox
        if self.ended and inbox and not self.trailers:
            self._payload = data = inbox[0] if len(inbox) == 1 else b"".join(inbox)
            inbox.clear()
            self.bytes_in = len(data)
            if self.grpc:
                self._count_in(data)
            self._took(len(data))
        elif self.head.expect_continue:
            self._fields = [*self._fields, (b"expect", b"100-continue")]

    # The request's body

    async def _body_piece(self) -> bytes:
        while not self.inbox:
            if self.ended:
                return b""
            await self._wait_body()
        data = self.inbox.pop(0)
        if self.grpc:
            self._count_in(data)
        return data

    @coroutine
    def _wait_body(self) -> Generator[None, Any, None]:
        self.reader = self.ctx.loop.about_to_park()
        try:
            yield
        finally:
            self.reader = None

    def _took(self, size: int) -> None:
        self.conn.engine.taken(self.stream, size)
        self.conn.touch()

    def _added(self) -> Sequence[Field]:
        return self._fields

    def _body_trailers(self) -> Sequence[Field]:
        return self.trailers

    # The answer

    def _respond(self, response: ResponseHead, choice: Choice, up: Upstream, end: bool) -> None:
        """Send the head; what is remembered of it."""
        entry, headers, status = self.entry, response.headers, response.status
        if choice.response_ops:
            for ops in choice.response_ops:
                headers = ops.apply(headers)
            headers = passable(headers)
        # `response_fields`, written out: these were judged, and hold nothing of a connection.
        fields = [_STATUS[status], *headers]
        if entry.inbound:
            fields += entry.facts_fields
        elif up.pool.sni:
            self.peer_facts = response.facts
        if response.framing >= 0:
            fields.append((b"content-length", b"%d" % response.framing))
        self.status = status
        self.answered = monotonic()
        conn = self.conn
        conn.engine.respond(self.stream, fields, end)
        if not conn.dirty:
            conn.dirty = True
            conn.loop.dirty.append(conn)

    async def _interim(self, response: ResponseHead) -> None:
        fields = response_fields(response.status, response.headers, NO_LENGTH)
        self.conn.engine.interim(self.stream, fields)
        self.conn.touch()

    def _answer_whole(
        self, response: ResponseHead, choice: Choice, up: Upstream, data: bytes
    ) -> None:
        trailers = up.trailers
        self._respond(response, choice, up, not (data or trailers))
        if data:
            self.conn.engine.send(self.stream, data, not trailers)
        if self.grpc:
            self._count_out(data)
            self._note_status(trailers or response.headers)
        if trailers:
            self.conn.engine.trailers(self.stream, trailers)

    async def _answer_begin(self, response: ResponseHead, choice: Choice, up: Upstream) -> None:
        self._respond(response, choice, up, False)

    async def _answer_piece(self, data: bytes) -> None:
        conn, stream = self.conn, self.stream
        if self.grpc:
            self._count_out(data)
        conn.engine.send(stream, data, False)
        conn.touch()
        if conn.engine.queued(stream) > conn.high:
            await conn.room(stream)

    async def _answer_end(self, trailers: Sequence[Field]) -> None:
        if self.grpc:
            self._note_status(trailers)
        if trailers:
            self.conn.engine.trailers(self.stream, trailers)
        else:
            self.conn.engine.end(self.stream)
        self.conn.touch()

    # gRPC

    def _count_in(self, data: bytes) -> None:
        counter = self._in
        if counter is None:
            counter = self._in = MessageCounter()
        counter.feed(data)
        self.messages_in = counter.messages

    def _count_out(self, data: bytes) -> None:
        counter = self._sent
        if counter is None:
            counter = self._sent = MessageCounter()
        counter.feed(data)
        self.messages_out = counter.messages

    def _note_status(self, fields: Sequence[Field]) -> None:
        for name, value in fields:
            if name == b"grpc-status":
                self.grpc_status = str(read_status(value))

    # Local answers

    async def _reply(self, reason: str, location: bytes = b"") -> None:
        if self.status:
            raise ConnectionResetError(reason)
        reply = REPLIES[reason]
        self.status, self.flags, self.details = reply.status, reply.flag, reason
        if self.grpc:
            self._trailers_only(status_of_reply(reply.status), f"{reply.text} ({reason})")
            return
        headers = [*REPLY_HEADERS, (b"location", location)] if location else REPLY_HEADERS
        self._say(reply.status, headers, reply_body(reply.text, reason, self.request_id))

    def _trailers_only(self, status: int, text: str) -> None:
        self.status, self.grpc_status = 200, str(status)
        self.conn.engine.respond(self.stream, trailers_only(status, text), True)
        self.conn.touch()

    def _say(self, status: int, headers: list[Field], body: bytes) -> None:
        engine, stream = self.conn.engine, self.stream
        whole = self.head.method != b"HEAD"
        engine.respond(stream, response_fields(status, headers, len(body)), not whole)
        if whole:
            self.bytes_out = len(body)
            engine.send(stream, body, True)
        self.conn.touch()

    def _refused(self, error: HTTPError) -> None:
        """The request itself is wrong, though its head was well-formed."""
        self.ctx.limit(error.code)
        self.status, self.flags, self.details = error.status, "DPE", error.code
        self.failure = error.message
        if not self.left:
            self._say(error.status, REPLY_HEADERS, reply_body(error.message, error.code))
