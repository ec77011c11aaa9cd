"""A try where one side at least speaks HTTP/2: any downstream to any upstream.

`Exchange._try` carries HTTP/1.1 to HTTP/1.1 and is written for its speed.  The
other three combinations meet here, between two small interfaces: an `Upstream`
(`meshd.worker.h2_client`, `h1_upstream`), and on the downstream's side the
``_answer_…`` methods, written here for HTTP/1.1 and in `h2_exchange` for HTTP/2.

The answer may begin before the request's body has ended, and both go on: the
body has a fiber of its own, but only if it is still arriving.  What was sent of
such a body is remembered up to `Limits.buffer_bytes` until the answer begins, so
that a stream that its peer refused (GOAWAY, REFUSED_STREAM) can be opened anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from meshd.worker.entry import Unroutable, fields_of
from meshd.worker.loop import DeadlineExceeded
from meshd.worker.transfer import ClientGone, Transfer
from meshd.worker.upstream import ConnectFailed
from meshkit.balance.retry import EXHAUSTED, may_retry
from meshkit.http.fields import Field
from meshkit.http.h1 import HTTPError, RequestHead, ResponseHead, chunk, last_chunk
from meshkit.http.h2 import CANCEL, ENHANCE_YOUR_CALM, INTERNAL_ERROR
from meshkit.http.h2_head import passable

if TYPE_CHECKING:
    from meshd.worker.routes import Action, Choice, Target


class TryFailed(Exception):
    """A try ended without an answer.  `outcome` feeds the retry verdict,
    `reason` (a key of REPLIES) the reply if it was the last, `detail` the log."""

    def __init__(self, outcome: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.reason = reason
        self.detail = detail


class UpstreamFailed(OSError):
    """The upstream's side of a try broke.  `code` is the HTTP/2 error that it gave."""

    def __init__(self, outcome: str, reason: str, detail: str, code: int = INTERNAL_ERROR) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.reason = reason
        self.detail = detail
        self.code = code


class Origin(Protocol):
    """The part of a pool that is asked about."""

    @property
    def sni(self) -> str: ...


class Upstream(Protocol):
    """One request to one endpoint and its answer, whatever it is spoken in.

    Everything may raise `UpstreamFailed`.
    """

    @property
    def local(self) -> bytes:
        """Our end, for the access log."""

    @property
    def pool(self) -> Origin:
        """Where the connection is from: ``sni`` says that the peer is a meshd."""

    @property
    def trailers(self) -> Sequence[Field]:
        """After the body's end."""

    def begin(
        self,
        head: RequestHead,
        path: bytes,
        fields: Sequence[Field],
        added: Sequence[Field],
        payload: bytes,
        more: bool,
    ) -> None:
        """Send the head (its ``fields``, then what is ``added``) and what is whole of the
        body; ``more`` of it comes by `send`."""

    async def send(self, data: bytes) -> None:
        """A piece of the body, taken when this returns."""

    async def end(self, trailers: Sequence[Field]) -> None:
        """The body has ended."""

    def head(self) -> ResponseHead | None:
        """The next head, interim ones too; None: `wait`, and ask again.  Raises HTTPError."""

    def wait(self) -> Awaitable[None]:
        """Until something came."""

    def whole(self, response: ResponseHead) -> bytes | None:
        """The rest of the body if it is at hand to its end, trailers included."""

    def take(self) -> bytes | None:
        """The next piece of the body; b"": it has ended; None: `wait`, and ask again."""

    def took(self, size: int) -> None:
        """So much of what `take` gave has gone on."""

    def stop(self) -> None:
        """The client has gone: make whoever waits for this upstream fail."""

    def release(self, response: ResponseHead, sent: bool) -> None:
        """The answer has come whole; ``sent``: so has the request gone."""

    def abandon(self) -> None:
        """The try is over, or its answer is not wanted.  Idempotent."""


class Streaming(Transfer):
    """The generic try; its downstream methods are those of an HTTP/1.1 connection."""

    _replay: list[bytes] | tuple[()] = ()
    """What was sent of a body that is still arriving, while it may be sent again."""
    _replayed = 0
    _unpaid = 0
    """Bytes of the body that were taken from the client, and whose credit it has not got back."""
    _out = b""
    _code = INTERNAL_ERROR
    """What an HTTP/2 client is told when the answer breaks off."""

    async def _stream_try(
        self, action: Action, tried: Sequence[Target], choice: Choice | None = None
    ) -> TryFailed | None:
        """One try on one endpoint; a failure that may be repeated is returned, not raised."""
        ctx = self.ctx
        if choice is None:
            choices = action.choices
            choice = choices[0] if action.pick is None else action.pick(ctx.random)
            self.choice = choice
        cluster = choice.cluster
        if cluster is None:
            raise Unroutable("cluster_not_found", choice.cluster_name)
        self.target = target = cluster.balancer.pick(tried)
        if target is None:
            raise Unroutable("no_healthy_upstream", cluster.name)
        self.tries += 1
        per_try = action.retry.per_try_timeout
        if per_try:
            self._limit_try(per_try)
        if cluster.auto and self.head.http2 and not self.entry.edge:
            pool = target.http2_pool(self.entry.identity)
        else:
            pool = target.pool(self.entry.identity)
        self.upstream = pool.address_text
        up: Upstream | None = None
        target.active += 1
        try:
            up = None if self._renewed else pool.lease()
            if up is None:
                up = await pool.open_lease(cluster.connect_timeout)
            head = self.head
            if head.upgrade:
                up = await self._tunnel_of(up)
            self.upstream_local = up.local
            fields = self.headers
            if choice.request_ops:
                for ops in choice.request_ops:
                    fields = ops.apply(fields)
                fields = passable(fields)
            payload = self._payload
            more = bool(head.body) and not payload
            up.begin(head, self.path, fields, self._added(), payload, more)
            if more and not head.upgrade:
                self._uploader = ctx.loop.spawn(self._feed(up), "upload")
            response = up.head()
            while response is None or response.status < 200:
                if response is None:
                    await up.wait()
                else:
                    await self._interim(response)
                response = up.head()
            data = up.whole(response)
            if response.status >= 400 or self.grpc:
                outcome = self._unwanted(action, response, data)
                if outcome:
                    self._drop(up)
                    return TryFailed(outcome, "retry_limit_exceeded", "")
            self._replay = ()
            if per_try:
                self.runner().expires = self.deadline
            if data is None:
                await self._answer_stream(response, choice, up)
            else:
                self.bytes_out = len(data)
                waits = self._answer_whole(response, choice, up, data)
                if waits is not None:
                    await waits
            self._settle(up, response)
            return None
        except ConnectFailed as error:
            return self._unconnected(error)
        except HTTPError as error:
            ctx.limit("upstream_" + error.code)
            self._drop(up)
            if self.status:
                raise self._cut(error.message) from error
            return TryFailed("protocol-error", "upstream_protocol_error", error.message)
        except DeadlineExceeded:
            self._drop(up)
            late = self.deadline and ctx.loop.now >= self.deadline
            if per_try and not self.status and not late:
                return TryFailed("per-try-timeout", "upstream_timeout", "per-try timeout")
            raise
        except UpstreamFailed as error:
            self._drop(up)
            if self._client_gone is not None:
                raise self._gone() from error
            if self._out:  # the answer's head, held back for its body: nobody has seen it
                self._out, self.status = b"", 0
            elif self.status:
                self._code = error.code if error.code in _PASSED_ON else INTERNAL_ERROR
                raise self._cut(error.detail) from error
            return TryFailed(error.outcome, error.reason, error.detail)
        except BaseException:
            self._drop(up)
            raise
        finally:
            target.active -= 1

    async def _answer_stream(self, response: ResponseHead, choice: Choice, up: Upstream) -> None:
        """An answer that is still arriving."""
        if response.upgrade:
            await self._join(response, choice, up)
            return
        await self._answer_begin(response, choice, up)
        await self._answer_pieces(up)
        await self._answer_end(up.trailers)

    async def _answer_pieces(self, up: Upstream) -> None:
        """One piece in hand, the next when it was taken."""
        while True:
            data = up.take()
            if data is None:
                if self._out:
                    await self._push()
                await up.wait()
            elif data:
                self.bytes_out += len(data)
                await self._answer_piece(data)
                up.took(len(data))
            else:
                break

    async def _tunnel_of(self, up: Upstream) -> Upstream:
        """An upstream that can become a tunnel (`upgrade`)."""
        raise NotImplementedError

    async def _join(self, response: ResponseHead, choice: Choice, up: Upstream) -> None:
        """The upstream has become one."""
        raise NotImplementedError

    def _settle(self, up: Upstream, response: ResponseHead) -> None:
        """The answer is complete; a body that nobody asked for any more is not sent on."""
        uploader = self._uploader
        sent = uploader is None or uploader.done
        if uploader is not None and not sent:
            uploader.cancel()
        up.release(response, sent)

    def _drop(self, up: Upstream | None) -> None:
        if up is not None:
            if self._uploader is not None:
                self._uploader.cancel()
            up.abandon()

    # Whether to try again

    def _unwanted(self, action: Action, response: ResponseHead, data: bytes | None) -> str:
        """The outcome for which the route wants this answer tried again; "" = take it."""
        if response.status >= 400:
            if self._wants_retry(action, response.status):
                return f"status-{response.status}"
        elif self.grpc and data == b"":
            return self._grpc_outcome(action, response)
        return ""

    def _grpc_outcome(self, action: Action, response: ResponseHead) -> str:
        """Of a gRPC answer without a message: its status is in the head."""
        if self._consumed:
            return ""
        status = next((v for k, v in response.headers if k == b"grpc-status"), b"")
        word = GRPC_OUTCOMES.get(status, "")
        if word and may_retry(action.retry, self.head.method, False, self.tries, word).retry:
            return word
        return ""

    def _wants_retry(self, action: Action, status: int) -> bool:
        """The route wants an answer of this status tried again, and it can be."""
        if self._consumed:
            return False
        keyed = b"idempotency-key" in self.names
        method, outcome = self.head.method, f"status-{status}"
        verdict = may_retry(action.retry, method, keyed, self.tries, outcome)
        if verdict.why == EXHAUSTED and self.tries > 1:
            self.flags = "URX"
        return verdict.retry

    def _limit_try(self, per_try: float) -> None:
        limit = self.ctx.loop.now + per_try
        fiber = self.runner()
        fiber.expires = min(limit, self.deadline) if self.deadline else limit
        self.ctx.loop.arm(fiber)

    def _unconnected(self, error: ConnectFailed) -> TryFailed:
        self.ctx.bump("upstream_connect_failures", reason=error.outcome.replace("-", "_"))
        naming = error.outcome == "secure-naming"
        reason = "upstream_identity_refused" if naming else "upstream_connection_failure"
        return TryFailed(error.outcome, reason, error.reason)

    # The request's body, upstream

    async def _feed(self, up: Upstream) -> None:
        """A body that is still arriving, piece by piece, beside the wait for the answer."""
        try:
            for data in self._replay:
                await up.send(data)
            self._pay()
            while True:
                data = await self._body_piece()
                if not data:
                    break
                self._remember(data)
                self.bytes_in += len(data)
                self._unpaid += len(data)
                await up.send(data)
                self._pay()
            await up.end(self._body_trailers())
        except ClientGone as error:
            # Nobody is left to answer, or the body is no body: end the try at once.
            self._client_gone = error
            self.keep = False
            up.stop()
        except OSError:
            # The upstream closed its side; whether it answered first, the try will see.
            self.keep = False

    def _pay(self) -> None:
        """What was sent is taken; a try that was cut short leaves it to the next, or the end."""
        size, self._unpaid = self._unpaid, 0
        if size:
            self._took(size)

    def _remember(self, data: bytes) -> None:
        """Keep what is sent, within bounds, while the try may have to be repeated."""
        if self._consumed or self.status:
            return
        self._replayed += len(data) + _PIECE_COST
        if self._replayed > self.entry.limits.buffer_bytes:
            self._consumed, self._replay = True, ()
        elif self._replay:
            self._replay.append(data)
        else:
            self._replay = [data]

    # What an HTTP/1.1 downstream does; HTTP/2's is in `h2_exchange`

    def _added(self) -> Sequence[Field]:
        """What is added to the request on its way."""
        return fields_of(self._extra)

    def _body_trailers(self) -> Sequence[Field]:
        return self.down.reader.trailers

    def _took(self, size: int) -> None:
        """The kernel gives an HTTP/1.1 client its credit."""

    def _answer_whole(
        self, response: ResponseHead, choice: Choice, up: Upstream, data: bytes
    ) -> Coroutine[Any, Any, None] | None:
        """An answer that is at hand to its end: in one send, to be awaited if there is one."""
        out = self._answer_head(response, choice, up)  # type: ignore[arg-type]
        if self._chunked:
            out += (chunk(data) if data else b"") + last_chunk(up.trailers)
        else:
            out += data
        return self.down.stream.send(out)

    async def _answer_begin(self, response: ResponseHead, choice: Choice, up: Upstream) -> None:
        self._out = self._answer_head(response, choice, up)  # type: ignore[arg-type]

    async def _answer_piece(self, data: bytes) -> None:
        out, self._out = self._out, b""
        await self.down.stream.send(out + (chunk(data) if self._chunked else data))

    async def _push(self) -> None:
        out, self._out = self._out, b""
        await self.down.stream.send(out)

    async def _answer_end(self, trailers: Sequence[Field]) -> None:
        out = self._out + (last_chunk(trailers) if self._chunked else b"")
        self._out = b""
        if out:
            await self.down.stream.send(out)


_PIECE_COST = 64
"""What a piece costs beside its bytes: a body may come one by one."""
_PASSED_ON = frozenset((CANCEL, ENHANCE_YOUR_CALM))
"""Error codes that mean the same to the client; the others are between us and the upstream."""

GRPC_OUTCOMES: dict[bytes, str] = {
    b"1": "grpc-cancelled",
    b"4": "grpc-deadline-exceeded",
    b"8": "grpc-resource-exhausted",
    b"13": "grpc-internal",
    b"14": "grpc-unavailable",
}
"""grpc-status → outcome (`meshkit.balance.retry`)."""
