"""One request through the proxy: route, tries, the answer, the record.

An exchange has one writer to each side.  Until the first byte of the answer has
gone downstream a failed try may be repeated, if the route's policy and the
safety rule allow it (`meshkit.balance.retry`); after that a failure can only
cut the connection, so that no truncated answer passes for a whole one.

Plain attributes with class-level defaults instead of `__slots__`: most requests
change a handful of them, and creating the object is then a third cheaper.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from meshd.worker.entry import Unroutable
from meshd.worker.loop import DeadlineExceeded, Fiber
from meshd.worker.routes import Action, Choice, Target
from meshd.worker.upstream import ConnectFailed, Connection
from meshkit.balance.retry import backoff, may_retry
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
    render_request,
    render_response,
)
from meshkit.http.path import canonical
from meshkit.telemetry.trace import new_request_id, new_traceparent

if TYPE_CHECKING:
    from meshd.worker.downstream import Downstream

READ = 65_536
DRAIN_BYTES = 65_536
"""What is read and dropped of a body after an early answer, rather than resetting."""

_MANAGED = frozenset((b"x-baremesh-source", b"x-baremesh-destination"))
_EDGE_MANAGED = _MANAGED | {
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-client-cert",
    b"x-forwarded-host",
    b"forwarded",
}
_CLIENT_CERT = frozenset((b"x-forwarded-client-cert",))


class TryFailed(Exception):
    """A try ended without an answer.  `outcome` feeds the retry verdict,
    `reason` (a key of REPLIES) the reply if it was the last, `detail` the log."""

    def __init__(self, outcome: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.reason = reason
        self.detail = detail


class Exchange:
    """A request and its answer on one downstream connection."""

    action: Action | None = None
    choice: Choice | None = None
    path = b""
    status = 0
    flags = "-"
    details = "via_upstream"
    failure = ""
    request_id = b""
    bytes_in = 0
    bytes_out = 0
    tries = 0
    upstream = b"-"
    upstream_local = b"-"
    upstream_ms = -1
    user_agent = b""
    forwarded_for = b""
    peer_facts = b""
    """Raw value of the peer's x-baremesh-* header: the key of its telemetry series."""
    _payload = b""
    _uploader: Fiber | None = None
    _client_gone: _ClientGone | None = None
    _consumed = False
    """Some of the request's body has left for an upstream and cannot be sent again."""

    def __init__(self, down: Downstream, head: RequestHead, started: float) -> None:
        self.down = down
        self.head = head
        self.entry = down.entry
        self.ctx = down.ctx
        self.started = started
        self.keep = head.keep_alive

    async def run(self) -> bool:
        """Serve it; True if the connection can carry another request."""
        down = self.down
        try:
            try:
                self._admit()
                await self._forward()
            except Unroutable as error:
                self.failure = error.detail
                await self._reply(error.reason, error.location)
            if down.reader.done:
                return self.keep
            return self.keep and await self._drain()
        except HTTPError as error:
            return await self._refuse(error)
        except _ClientGone as gone:
            if gone.error is not None and not self.status:
                return await self._refuse(gone.error)
            self.flags = "DC"
            return False
        except (OSError, DeadlineExceeded):
            # Writing downstream failed, or the client stopped taking the answer.
            self.flags = "DC" if self.flags == "-" else self.flags
            return False
        finally:
            down.fiber.expires = 0.0
            self.ctx.record(self)

    def _admit(self) -> None:
        """Everything that is decided from the head alone."""
        head, entry = self.head, self.entry
        self.path = canonical(head.path)
        if head.method == b"CONNECT" or head.method == b"TRACE":
            raise Unroutable("method_not_allowed")
        if head.upgrade:
            raise Unroutable("upgrade_not_supported", head.upgrade.decode("latin-1"))
        if self.ctx.draining:
            self.keep = False
        # A dict is the cheapest way to ask for several names; repeated ones do not matter here.
        names = dict(head.headers)
        request_id = names.get(b"x-request-id")
        extra = entry.upstream_extra
        if request_id is None:
            request_id = new_request_id(self.ctx.random)
            extra += b"x-request-id: " + request_id + b"\r\n"
        self.request_id = request_id
        traceparent = names.get(b"traceparent")
        if traceparent is None:
            extra += b"traceparent: " + new_traceparent(self.ctx.random) + b"\r\n"
        facts = names.get(b"x-baremesh-source")
        if facts is not None or b"x-baremesh-destination" in names:
            if entry.mesh_peer:
                self.peer_facts = facts or b""
            head.headers = [h for h in head.headers if h[0] not in _MANAGED]
        if entry.edge:
            head.headers = [h for h in head.headers if h[0] not in _EDGE_MANAGED]
        elif entry.inbound and b"x-forwarded-client-cert" in names:
            head.headers = [h for h in head.headers if h[0] not in _CLIENT_CERT]
        self.user_agent = names.get(b"user-agent", b"")
        self.forwarded_for = names.get(b"x-forwarded-for", b"")
        self._extra = extra
        self.action = entry.action(head, self.path)

    async def _refuse(self, error: HTTPError) -> bool:
        """The request itself is wrong: say so, and end the connection."""
        self.status, self.flags, self.details = error.status, "DPE", error.code
        self.failure = error.message
        await self.down.refuse(error)
        return False

    # Forwarding

    async def _forward(self) -> None:
        action = self.action
        assert action is not None
        fiber = self.down.fiber
        deadline = self.ctx.loop.now + action.timeout if action.timeout else 0.0
        if deadline:
            fiber.expires = deadline
            self.ctx.loop.arm(fiber)
        if self.head.body:
            whole = self.down.reader.whole_body()
            if whole is not None:
                self._payload = whole
                self.bytes_in = len(whole)
            elif self.head.expect_continue:
                # The application says 100 or not; it is asked what the client asked us.
                self._extra += b"expect: 100-continue\r\n"
        tried: list[Target] = []
        try:
            while True:
                target, failed = await self._try(action, tried, deadline)
                if failed is None:
                    return
                if not await self._again(action, failed, deadline):
                    break
                tried.append(target)
        except DeadlineExceeded:
            if self.status or not deadline or self.ctx.loop.now < deadline:
                raise
            failed = TryFailed("timeout", "upstream_timeout", "route timeout")
        self.failure = failed.detail
        await self._reply(failed.reason)

    async def _again(self, action: Action, failed: TryFailed, deadline: float) -> bool:
        """Whether to try once more; waits out the backoff if so."""
        if self._consumed or self._client_gone is not None:
            return False
        names = dict(self.head.headers)
        verdict = may_retry(
            action.retry, self.head.method, b"idempotency-key" in names, self.tries, failed.outcome
        )
        if not verdict.retry:
            return False
        self.ctx.bump("retries")
        fiber = self.down.fiber
        fiber.expires = deadline
        if deadline:
            self.ctx.loop.arm(fiber)
        if not verdict.pause:
            return True
        await self.ctx.loop.sleep(backoff(self.ctx.random, self.tries, action.retry.backoff_base))
        return True

    def _pick(self, action: Action, tried: list[Target]) -> Target:
        choices = action.choices
        choice = choices[0] if action.pick is None else action.pick(self.ctx.random)
        self.choice = choice
        cluster = choice.cluster
        if cluster is None:
            raise Unroutable("cluster_not_found", choice.cluster_name)
        target = cluster.balancer.pick(tried)
        if target is None:
            raise Unroutable("no_healthy_upstream", cluster.name)
        return target

    async def _try(
        self, action: Action, tried: list[Target], deadline: float
    ) -> tuple[Target, TryFailed | None]:
        """One try on one endpoint; the failure is returned, not raised, if it may be repeated."""
        target = self._pick(action, tried)
        choice = self.choice
        assert choice is not None
        self.tries += 1
        target.active += 1
        conn: Connection | None = None
        caller = self.entry.caller
        pool = target.pool(caller.identity if caller is not None else "")
        self.upstream = pool.address_text
        per_try = action.retry.per_try_timeout
        if per_try:
            self._limit_try(per_try, deadline)
        try:
            conn = pool.take()
            reused = conn is not None
            if conn is None:
                assert choice.cluster is not None
                conn = await pool.open(choice.cluster.connect_timeout)
            conn.uses += 1
            response = await self._ask(conn, choice, reused)
            if response.status >= 400 and self._may_refuse(action, response.status):
                raise TryFailed(f"status-{response.status}", "retry_limit_exceeded", "")
            if per_try:
                self.down.fiber.expires = deadline
            await self._relay(conn, response, choice)
        except ConnectFailed as error:
            reason = (
                "upstream_identity_refused"
                if error.outcome == "secure-naming"
                else "upstream_connection_failure"
            )
            return target, TryFailed(error.outcome, reason, error.reason)
        except TryFailed as error:
            if conn is not None:
                self._abandon(conn)
            return target, error
        except DeadlineExceeded:
            if conn is not None:
                self._abandon(conn)
            if per_try and not self.status and (not deadline or self.ctx.loop.now < deadline):
                return target, TryFailed("per-try-timeout", "upstream_timeout", "per-try timeout")
            raise
        except BaseException:
            if conn is not None:
                self._abandon(conn)
            raise
        finally:
            target.active -= 1
        return target, None

    def _limit_try(self, per_try: float, deadline: float) -> None:
        limit = self.ctx.loop.now + per_try
        fiber = self.down.fiber
        fiber.expires = min(limit, deadline) if deadline else limit
        self.ctx.loop.arm(fiber)

    def _may_refuse(self, action: Action, status: int) -> bool:
        """The answer's status is one that the route wants tried again, and it can be."""
        if self._consumed:
            return False
        names = dict(self.head.headers)
        return may_retry(
            action.retry,
            self.head.method,
            b"idempotency-key" in names,
            self.tries,
            f"status-{status}",
        ).retry

    def _abandon(self, conn: Connection) -> None:
        self._stop_upload()
        conn.pool.discard(conn)

    # The request, upstream

    async def _ask(self, conn: Connection, choice: Choice, reused: bool) -> ResponseHead:
        """Send the request and return the final head; 1xx are relayed on the way."""
        head = self.head
        headers = head.headers
        for ops in choice.request_ops:
            headers = ops.apply(headers)
        data = render_request(
            head.method, self.path, head.authority, headers, head.body, self._extra
        )
        if self._payload:
            data += self._payload
        stream = conn.stream
        try:
            await stream.send(data)
        except OSError as error:
            # The answer (or the reason) may have come before the reset.
            if reused:
                raise TryFailed("reused-reset", "upstream_reset", str(error)) from error
            raise TryFailed("reset", "upstream_reset", str(error)) from error
        if head.body and not self._payload and not self.down.reader.done:
            self._uploader = self.ctx.loop.spawn(self._upload(conn), "upload")
        return await self._answer(conn, reused)

    async def _answer(self, conn: Connection, reused: bool) -> ResponseHead:
        reader, stream, method = conn.reader, conn.stream, self.head.method
        got = False
        try:
            while True:
                data = stream.try_recv()
                if data is None:
                    await stream.wait_readable()
                    continue
                if not data:
                    outcome = "reset" if got or not reused else "reused-reset"
                    raise TryFailed(outcome, "upstream_reset", "closed before the answer")
                got = True
                reader.feed(data)
                response = reader.head(method)
                while response is not None:
                    if response.status >= 200:
                        return response
                    await self._interim(response)
                    response = reader.head(method)
        except HTTPError as error:
            self.ctx.limit("upstream_" + error.code)
            raise TryFailed("protocol-error", "upstream_protocol_error", error.message) from error
        except OSError as error:
            if self._client_gone is not None:
                raise self._client_gone from error
            outcome = "reset" if got or not reused else "reused-reset"
            if getattr(stream, "tls_alert", False) and not got:
                outcome = "tls-alert"
            raise TryFailed(outcome, "upstream_reset", str(error)) from error

    async def _interim(self, response: ResponseHead) -> None:
        """100 Continue and friends go through to HTTP/1.1 clients as they come."""
        if not self.head.http10:
            await self.down.stream.send(
                render_response(
                    response.status, response.reason, response.headers, NO_LENGTH, True, b""
                )
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
                trailers = self.down.reader.trailers
                await conn.stream.send(last_chunk(trailers))
        except _ClientGone as error:
            # Nobody is left to answer, or the body is no body: end the try at once.
            self._client_gone = error
            self.keep = False
            conn.stream.abort()
        except OSError:
            # The upstream closed its side; whether it answered first, _answer will see.
            self.keep = False

    async def _body_piece(self) -> bytes:
        """The next piece of the request's body; b"" = its end.  Raises _ClientGone."""
        down = self.down
        while True:
            try:
                data = down.reader.body(READ)
                if data is not None:
                    return data
                received = await down.stream.recv(READ)
            except HTTPError as error:
                raise _ClientGone(error) from error
            except OSError as error:
                raise _ClientGone(None) from error
            if received:
                down.reader.feed(received)
            else:
                raise _ClientGone(None)

    def _stop_upload(self) -> None:
        uploader = self._uploader
        if uploader is not None and not uploader.done:
            uploader.cancel()

    # The answer, downstream

    async def _relay(self, conn: Connection, response: ResponseHead, choice: Choice) -> None:
        """Head and body to the client; the connection back to its pool if it is whole."""
        headers = response.headers
        if not self.entry.inbound:
            headers = self._take_facts(headers, conn)
        for ops in choice.response_ops:
            headers = ops.apply(headers)
        self.status = response.status
        if self.ctx.draining:
            self.keep = False
        self.upstream_ms = int((monotonic() - self.started) * 1000)
        body = response.body
        framing = self._framing(response)
        extra = b"connection: keep-alive\r\n" if self.head.http10 and self.keep else b""
        if self.entry.inbound:
            headers = [h for h in headers if h[0] != b"x-baremesh-destination"]
            extra += self.entry.facts_header
        out = render_response(response.status, response.reason, headers, framing, self.keep, extra)
        down = self.down.stream
        reader = conn.reader
        if body == 0:
            await down.send(out)
        else:
            await self._relay_body(conn, out, framing)
        uploader = self._uploader
        if uploader is not None and not uploader.done:
            # An early answer: what the client still sends is nobody's.
            self._stop_upload()
            conn.pool.discard(conn)
        elif response.keep_alive and reader.done and not reader.buffered and body != UNTIL_CLOSE:
            conn.pool.give(conn, self.ctx.loop.now)
        else:
            conn.pool.discard(conn)

    def _take_facts(self, headers: list[Field], conn: Connection) -> list[Field]:
        for name, value in headers:
            if name == b"x-baremesh-destination":
                if conn.pool.sni:
                    self.peer_facts = value
                return [h for h in headers if h[0] not in _MANAGED]
        return headers

    def _framing(self, response: ResponseHead) -> int:
        """How the answer's body goes on: an HTTP/1.0 client knows no chunked coding."""
        framing = response.framing
        if framing in (UNTIL_CLOSE, CHUNKED):
            if self.head.http10:
                self.keep = False
                return UNTIL_CLOSE
            return CHUNKED
        return framing

    async def _relay_body(self, conn: Connection, out: bytes, framing: int) -> None:
        """Stream it: one piece in hand, the next is read when this one was taken."""
        reader, up, down = conn.reader, conn.stream, self.down.stream
        chunked = framing == CHUNKED
        while True:
            try:
                data = reader.body(READ)
                if data is None:
                    if out:
                        await down.send(out)
                        out = b""
                    received = await up.recv(READ)
                    if received:
                        reader.feed(received)
                    else:
                        reader.eof()
                    continue
            except HTTPError as error:
                raise self._cut(error.message) from error
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
        head_only = self.head.method == b"HEAD"
        headers = REPLY_HEADERS
        if location:
            headers = [*headers, (b"location", location)]
        data = render_response(
            reply.status, STATUS_TEXT[reply.status], headers, len(body), self.keep, b""
        )
        fiber = self.down.fiber
        fiber.expires = self.ctx.loop.now + 10.0
        self.ctx.loop.arm(fiber)
        await self.down.stream.send(data if head_only else data + body)
        self.bytes_out += 0 if head_only else len(body)

    async def _drain(self) -> bool:
        """Read what is left of a small body, so that the connection can be kept."""
        fiber = self.down.fiber
        fiber.expires = self.ctx.loop.now + 5.0
        self.ctx.loop.arm(fiber)
        dropped = 0
        while dropped <= DRAIN_BYTES:
            try:
                data = await self._body_piece()
            except _ClientGone:
                return False
            if not data:
                return True
            dropped += len(data)
        return False


class _ClientGone(Exception):
    """The client ended its own body (None), or what it sent is no body (the error)."""

    def __init__(self, error: HTTPError | None) -> None:
        super().__init__("the client left while it sent its body")
        self.error = error
