"""What an exchange moves: the request's body up, the answer down, and our own answers.

Bodies are never collected: one piece (64 KiB) is in hand, and the next is read
when the other side has taken it.  Only a request body that is still arriving
has a fiber of its own, so that an early answer is not missed.  An answer that
breaks off is cut downstream too, so that no truncated one passes for whole.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from meshd.worker.fiber import Fiber
from meshd.worker.upstream import Connection
from meshkit.http.errors import REPLIES, REPLY_HEADERS, STATUS_TEXT, reply_body
from meshkit.http.h1 import (
    CHUNKED,
    LAST_CHUNK,
    NO_LENGTH,
    UNTIL_CLOSE,
    Field,
    HTTPError,
    RequestHead,
    ResponseHead,
    chunk,
    last_chunk,
    render_response,
)

if TYPE_CHECKING:
    from meshd.worker.downstream import Downstream
    from meshd.worker.routes import Action, Choice, Target

READ = 65_536
"""Bytes of one read, and of the piece in hand."""
DRAIN_BYTES = 65_536
"""What is read and dropped of a body after an early answer, rather than resetting."""
DRAIN_SECONDS = 5.0
REPLY_SECONDS = 10.0
"""For a client to take a short reply of ours."""

_NO_NAMES: dict[bytes, bytes] = {}


class ClientGone(Exception):
    """The client ended its own body (None), or what it sent is no body (the error)."""

    def __init__(self, error: HTTPError | None) -> None:
        super().__init__("the client left while it sent its body")
        self.error = error


class Look(NamedTuple):
    """Bytes that came of the client, all that moved, and what is still expected of it."""

    got: int
    moved: int
    done: bool
    """The request has come to its end."""
    waited_for: bool
    """A fiber waits to read from the client."""


class Transfer:
    """The state of a request and its answer, and the moving of both.

    Plain attributes with class-level defaults instead of `__slots__`: most
    requests change a handful of them, and creating the object is then a third
    cheaper.
    """

    action: Action | None = None
    choice: Choice | None = None
    target: Target | None = None
    path = b""
    status = 0
    flags = "-"
    details = "via_upstream"
    failure = ""
    request_id = b""
    names = _NO_NAMES
    """Header name → last value, for the log and for questions about single names."""
    bytes_in = 0
    bytes_out = 0
    tries = 0
    deadline = 0.0
    """The route's, on the loop's clock; 0 = none."""
    overdue = "upstream_timeout"
    """What is replied when the deadline comes before the answer (see `watch`)."""
    upstream = b"-"
    upstream_local = b"-"
    answered = 0.0
    """When the answer's head was there, on `monotonic`; 0 = no upstream answered."""
    peer_facts = b""
    """Raw value of the peer's x-baremesh-* header: the key of its telemetry series."""
    protocol = b"HTTP/1.1"
    """As the access log names the client's."""
    grpc = False
    """The request is gRPC: it has a status of its own, and messages."""
    grpc_status = ""
    """The number that the answer ended with, "" = none came."""
    messages_in = 0
    messages_out = 0
    messages_told = (0, 0)
    """Messages counted by the recorder so far."""
    tunnel = False
    """It has become one: what it carries is no request and no answer any more."""
    _payload = b""
    _extra = b""
    _uploader: Fiber | None = None
    _chunked = False
    _client_gone: ClientGone | None = None
    _renewed = False
    """The next try opens a connection of its own."""
    _consumed = False
    """Some of the request's body has left for an upstream and cannot be sent again."""

    headers: list[Field]
    """The request's, as they go on."""

    def __init__(self, down: Downstream, head: RequestHead, started: float) -> None:
        self.down = down
        self.head = head
        self.entry = down.entry
        self.ctx = down.ctx
        self.started = started
        self.keep = head.keep_alive

    def runner(self) -> Fiber:
        """The fiber that runs this exchange, whose deadline is the request's."""
        return self.down.fiber

    def look(self) -> Look:
        """How far it is, for `Watch`."""
        stream, reader = self.down.stream, self.down.reader
        got = stream.bytes_in
        return Look(got, got + stream.bytes_out, reader.done, stream.reader is not None)

    def end_now(self, now: float) -> None:
        """Make the deadline come: a reply, or the cut of an answer that has begun."""
        fiber = self.runner()
        self.deadline = fiber.expires = now
        self.ctx.loop.arm(fiber)

    # The request's body, upstream

    async def _interim(self, response: ResponseHead) -> None:
        """100 Continue and friends go through to HTTP/1.1 clients as they come."""
        if not self.head.http10:
            await self.down.stream.send(
                render_response(response.status, response.reason, response.headers, NO_LENGTH, True)
            )

    async def _upload(self, conn: Connection) -> None:
        """A body that is still arriving, piece by piece, beside the wait for the answer."""
        chunked = self.head.body == CHUNKED
        try:
            while True:
                data = await self._body_piece()
                if not data:
                    break
                self._consumed = True
                self.bytes_in += len(data)
                await conn.stream.send(chunk(data) if chunked else data)
            if chunked:
                await conn.stream.send(last_chunk(self.down.reader.trailers))
        except ClientGone as error:
            # Nobody is left to answer, or the body is no body: end the try at once.
            self._client_gone = error
            self.keep = False
            conn.stream.abort()
        except OSError:
            # The upstream closed its side; whether it answered first, `_try` will see.
            self.keep = False

    async def _body_piece(self) -> bytes:
        """The next piece of the request's body; b"" = its end.  Raises ClientGone."""
        down = self.down
        while True:
            try:
                data = down.reader.body(READ)
                if data is not None:
                    return data
                received = await down.stream.recv(READ)
            except HTTPError as error:
                raise ClientGone(error) from error
            except OSError as error:
                raise ClientGone(None) from error
            if not received:
                raise ClientGone(None)
            down.reader.feed(received)

    def _gone(self) -> ClientGone:
        """Why the upload ended, to be raised: kept by nobody, or its frames would keep us."""
        gone, self._client_gone = self._client_gone, None
        assert gone is not None
        return gone

    # The answer, downstream

    def _answer_head(self, response: ResponseHead, choice: Choice, conn: Connection) -> bytes:
        """The head to send, and everything that is remembered of it."""
        entry = self.entry
        headers = response.headers
        for ops in choice.response_ops:
            headers = ops.apply(headers)
        if entry.inbound:
            extra = entry.facts_header
        else:
            extra = b""
            if conn.pool.sni:
                self.peer_facts = response.facts
        if self.ctx.draining or (self.head.expect_continue and not self.down.reader.done):
            # The client may send the body it asked about or its next request: nobody can tell.
            self.keep = False
        framing = response.framing
        if self.head.http10:
            if framing in (CHUNKED, UNTIL_CLOSE):
                framing, self.keep = UNTIL_CLOSE, False  # HTTP/1.0 knows no chunked coding
            elif self.keep:
                extra += b"connection: keep-alive\r\n"
        elif framing == UNTIL_CLOSE:
            framing = CHUNKED
        self._chunked = framing == CHUNKED
        self.status = response.status
        self.answered = monotonic()
        return render_response(response.status, response.reason, headers, framing, self.keep, extra)

    def _release(self, conn: Connection, response: ResponseHead) -> None:
        """The connection back to its pool, if both sides are done with this exchange."""
        reader = conn.reader
        uploader = self._uploader
        if uploader is not None and not uploader.done:
            uploader.cancel()  # an early answer: what the client still sends is nobody's
        elif response.keep_alive and reader.done and not reader.buffered:
            pool = conn.pool
            # An application that wrongly sends a body after HEAD sends it later than the head:
            # on a connection that is used again it would be the next caller's answer.
            if self.head.method != b"HEAD" or pool.sni or not response.framing:
                pool.give(conn, self.ctx.loop.now)
                return
        conn.pool.discard(conn)

    async def _relay_body(self, conn: Connection, out: bytes) -> None:
        """Stream it: one piece in hand, the next is read when this one was taken."""
        reader, down = conn.reader, self.down.stream
        chunked = self._chunked
        while True:
            data = reader.body(READ)
            if data is None:
                if out:
                    await down.send(out)
                    out = b""
                await self._more(conn)
                continue
            if not data:
                break
            self.bytes_out += len(data)
            out += chunk(data) if chunked else data
            if reader.done and not chunked:
                break
            if len(out) >= READ:
                await down.send(out)
                out = b""
        if chunked:
            out += last_chunk(reader.trailers) if reader.trailers else LAST_CHUNK
        if out:
            await down.send(out)

    async def _more(self, conn: Connection) -> None:
        """Feed the answer's reader once.  Raises the cut of an upstream that broke off."""
        try:
            received = await conn.stream.recv(READ)
        except OSError as error:
            raise self._cut(str(error)) from error
        if received:
            conn.reader.feed(received)
        else:
            conn.reader.eof()

    def _cut(self, detail: str) -> OSError:
        """The answer broke off: the client must see a cut, never a shorter answer."""
        self.flags = "UC"
        self.details = "upstream_cut"
        self.failure = detail
        self.keep = False
        return ConnectionResetError(detail)

    # Local answers

    async def _reply(self, reason: str, location: bytes = b"") -> None:
        if self.status:
            raise ConnectionResetError(reason)
        reply = REPLIES[reason]
        self.status, self.flags, self.details = reply.status, reply.flag, reason
        if not self.down.reader.done and self.head.expect_continue:
            self.keep = False  # the client may send the body or may not: nobody can tell
        body = reply_body(reply.text, reason, self.request_id)
        headers = [*REPLY_HEADERS, (b"location", location)] if location else REPLY_HEADERS
        phrase = STATUS_TEXT[reply.status]
        data = render_response(reply.status, phrase, headers, len(body), self.keep)
        if self.head.method != b"HEAD":
            data += body
            self.bytes_out = len(body)
        fiber = self.down.fiber
        fiber.expires = self.ctx.loop.now + REPLY_SECONDS
        self.ctx.loop.arm(fiber)
        await self.down.stream.send(data)

    async def _end_upload(self) -> None:
        """Until nobody else reads the client's body: a cancelled fiber ends at its next turn."""
        uploader = self._uploader
        if uploader is not None and not uploader.done:
            uploader.cancel()
            await uploader.join()

    async def _drain(self) -> bool:
        """Read what is left of a small body, so that the connection can be kept."""
        await self._end_upload()
        fiber = self.down.fiber
        fiber.expires = self.ctx.loop.now + DRAIN_SECONDS
        self.ctx.loop.arm(fiber)
        dropped = 0
        while dropped <= DRAIN_BYTES:
            try:
                data = await self._body_piece()
            except ClientGone:
                return False
            if not data:
                return True
            dropped += len(data)
        return False
