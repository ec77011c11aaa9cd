"""One request through the proxy: route, tries, the answer, the record.

An exchange has one writer to each side.  Until the first byte of the answer has
gone downstream a failed try may be repeated, if the route's policy and the
safety rule allow it (`meshkit.balance.retry`); after that a failure can only
cut the connection, so that no truncated answer passes for a whole one.

This is the hottest code of the product.  `_try` is one long function, and an
answer that is whole at hand is sent with its head in one piece, because each
coroutine, call and system call less was measured: taken apart like the rest it
cost a fifth more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshd.worker import upgrade
from meshd.worker.entry import Unroutable
from meshd.worker.loop import DeadlineExceeded
from meshd.worker.streams import Streaming, TryFailed
from meshd.worker.transfer import READ, ClientGone
from meshd.worker.upstream import ConnectFailed, Connection
from meshkit.balance.retry import backoff, may_retry
from meshkit.http.h1 import HTTPError, render_request
from meshkit.http.path import canonical
from meshkit.telemetry.trace import valid_request_id

if TYPE_CHECKING:
    from meshd.worker.routes import Action, Choice, Target
    from meshd.worker.streams import Upstream
    from meshkit.http.h1 import ResponseHead

EDGE_MANAGED = frozenset(
    (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"x-real-ip")
)
"""A stranger's word on addresses: gateways take the client's from the peer."""


class Exchange(Streaming):
    """A request and its answer on one downstream connection: admitted, tried, recorded."""

    async def run(self) -> bool:
        """Serve it; True if the connection can carry another request."""
        down = self.down
        try:
            try:
                action = self._admit()
                failed = await self._try(action, ())
                if failed is not None:
                    await self._after(action, failed)
            except Unroutable as error:
                self.failure = error.detail
                await self._reply(error.reason, error.location)
            except DeadlineExceeded:
                if self.status or not self.deadline or self.ctx.loop.now < self.deadline:
                    raise
                self.failure = self.failure or "route timeout"
                await self._reply(self.overdue)
            if down.reader.done:
                return self.keep
            return self.keep and await self._drain()
        except HTTPError as error:
            return await self._refuse(error)
        except ClientGone as gone:
            if gone.error is not None and not self.status:
                return await self._refuse(gone.error)
            self.flags = "DC"
            return False
        except (OSError, DeadlineExceeded) as error:
            # Writing downstream failed, the client stopped taking the answer, or the route's
            # time is over within it.
            if self.flags == "-":
                self.flags = "UT" if self._is_late(error) else "DC"
                self.failure = str(error) or "route timeout"
            return False
        finally:
            self.ctx.record(self)

    def _is_late(self, error: Exception) -> bool:
        """The route's timeout cut an answer of the upstream."""
        late = isinstance(error, DeadlineExceeded) and self.details == "via_upstream"
        return late and 0.0 < self.deadline <= self.ctx.loop.now

    def _admit(self) -> Action:
        """Everything that is decided from the head alone.  Raises HTTPError, Unroutable."""
        head, entry, ctx = self.head, self.entry, self.ctx
        self.path = path = canonical(head.path)
        if head.upgrade:
            upgrade.ask(self)
        if ctx.draining:
            self.keep = False
        # A dict is the cheapest way to ask for several names; repeated ones do not matter here.
        self.names = names = dict(head.headers)
        extra = entry.upstream_extra
        request_id = names.get(b"x-request-id")
        if request_id is None or (entry.edge and not valid_request_id(request_id)):
            request_id = ctx.request_ids.new()
            extra = b"%bx-request-id: %b\r\n" % (extra, request_id)
        self.request_id = request_id
        if b"traceparent" not in names:
            extra = b"%btraceparent: %b\r\n" % (extra, ctx.trace_parents.new())
        self.headers = head.headers
        if entry.edge:
            self.headers = [
                h
                for h in head.headers
                if h[0] not in EDGE_MANAGED and (h[0] != b"x-request-id" or h[1] == request_id)
            ]
        elif entry.mesh_peer:
            self.peer_facts = head.facts
        self._extra = extra
        self.action = action = entry.action(head, path)
        if action.timeout:
            fiber = self.down.fiber
            self.deadline = fiber.expires = ctx.loop.now + action.timeout
            ctx.loop.arm(fiber)
        if head.body:
            self._hold_body()
        return action

    def _hold_body(self) -> None:
        """A body that is whole at hand goes with the head, and can be sent again."""
        whole = self.down.reader.whole_body()
        if whole is not None:
            self._payload = whole
            self.bytes_in = len(whole)
        elif self.head.expect_continue:
            # The application says 100 or not; it is asked what the client asked us.
            self._extra += b"expect: 100-continue\r\n"

    async def _refuse(self, error: HTTPError) -> bool:
        """The request itself is wrong: say so, and end the connection."""
        self.status, self.flags, self.details = error.status, "DPE", error.code
        self.failure = error.message
        await self.down.refuse(error)
        return False

    # Tries

    async def _try(self, action: Action, tried: Sequence[Target]) -> TryFailed | None:
        """One try on one endpoint; a failure that may be repeated is returned, not raised."""
        ctx = self.ctx
        choices = action.choices
        self.choice = choice = choices[0] if action.pick is None else action.pick(ctx.random)
        cluster = choice.cluster
        if cluster is None:
            raise Unroutable("cluster_not_found", choice.cluster_name)
        if cluster.http2:
            return await self._stream_try(action, tried, choice)
        self.target = target = cluster.balancer.pick(tried)
        if target is None:
            raise Unroutable("no_healthy_upstream", cluster.name)
        self.tries += 1
        per_try = action.retry.per_try_timeout
        if per_try:
            self._limit_try(per_try)
        pool = target.pool(self.entry.identity)
        self.upstream = pool.address_text
        conn: Connection | None = None
        outcome = "unsent"
        target.active += 1
        try:
            conn = None if self._renewed else pool.take()
            reused = conn is not None
            if conn is None:
                conn = await pool.open(cluster.connect_timeout)
            self.upstream_local = conn.local
            head = self.head
            headers = self.headers
            for ops in choice.request_ops:
                headers = ops.apply(headers)
            data = render_request(
                head.method, self.path, head.authority, headers, head.body, self._extra
            )
            if self._payload:
                data += self._payload
            stream, reader = conn.stream, conn.reader
            # Between hosts the peer is a meshd, which always answers: if it died before a byte
            # came back, a worker was killed, and a new connection is as safe to repeat as an old.
            outcome = "reused-reset" if reused or pool.sni else "reset"
            taken = stream.try_send(data) if len(data) <= READ else 0
            if taken != len(data):
                await stream.send_rest(data, taken)
            if head.body and not self._payload and not self.down.reader.done:
                self._uploader = ctx.loop.spawn(self._upload(conn), "upload")
            response = None
            while response is None:
                # The bit is looked at here because right after a send it is nearly always clear.
                received = stream.try_recv() if stream.readable else None
                if received is None:
                    await stream.wait_readable()
                elif received:
                    outcome = "reset-after-bytes"
                    reader.feed(received)
                    response = reader.head(head.method)
                    while response is not None and response.status < 200:
                        await self._interim(response)
                        response = reader.head(head.method)
                else:
                    raise ConnectionResetError("closed before the answer")
            if response.status >= 400 and self._wants_retry(action, response.status):
                self._abandon(conn)
                return TryFailed(f"status-{response.status}", "retry_limit_exceeded", "")
            if per_try:
                self.down.fiber.expires = self.deadline
            out = self._answer_head(response, choice, conn)
            whole = reader.whole_body() if response.body else b""
            if whole is None:
                await self._relay_body(conn, out)
            else:
                self.bytes_out = len(whole)
                data = out + whole
                down = self.down.stream
                taken = down.try_send(data) if len(data) <= READ else 0
                if taken != len(data):
                    await down.send_rest(data, taken)
            self._release(conn, response)
            return None
        except ConnectFailed as error:
            return self._unconnected(error)
        except HTTPError as error:
            ctx.limit("upstream_" + error.code)
            self._abandon(conn)
            if self.status:
                raise self._cut(error.message) from error
            return TryFailed("protocol-error", "upstream_protocol_error", error.message)
        except DeadlineExceeded:
            self._abandon(conn)
            late = self.deadline and ctx.loop.now >= self.deadline
            if per_try and not self.status and not late:
                return TryFailed("per-try-timeout", "upstream_timeout", "per-try timeout")
            raise
        except OSError as error:
            self._abandon(conn)
            if self._client_gone is not None:
                raise self._gone() from error
            if self.status or conn is None:
                raise
            if conn.stream.tls_alert and outcome != "reset-after-bytes":
                outcome = "tls-alert"
            return TryFailed(outcome, "upstream_reset", str(error))
        except BaseException:
            self._abandon(conn)
            raise
        finally:
            target.active -= 1

    async def _after(self, action: Action, failed: TryFailed) -> None:
        """The first try failed: others while the verdict allows, then the reply."""
        tried: list[Target] = []
        while await self._again(action, failed):
            if self.target is not None:
                tried.append(self.target)
            result = await self._try(action, tried)
            if result is None:
                return
            failed = result
        self.failure = failed.detail
        await self._reply(failed.reason)

    async def _again(self, action: Action, failed: TryFailed) -> bool:
        """Whether to try once more; waits out the backoff if so."""
        await self._end_upload()
        if self._consumed:
            return False
        keyed = b"idempotency-key" in self.names
        verdict = may_retry(action.retry, self.head.method, keyed, self.tries, failed.outcome)
        if not verdict.retry:
            return False
        # Where one idle connection had died, its neighbours are dying: of a killed
        # process the kernel closes them one after another.
        self._renewed = failed.outcome == "reused-reset"
        ctx, fiber = self.ctx, self.runner()
        ctx.bump("retries")
        fiber.expires = self.deadline
        ctx.loop.arm(fiber)
        if verdict.pause:
            await ctx.loop.sleep(backoff(ctx.random, self.tries, action.retry.backoff_base))
        return True

    async def _tunnel_of(self, up: Upstream) -> Upstream:
        return await upgrade.tunnel_of(up, self)

    async def _join(self, response: ResponseHead, choice: Choice, up: Upstream) -> None:
        await upgrade.join(self, response, choice, up)

    def _abandon(self, conn: Connection | None) -> None:
        if conn is not None:
            if self._uploader is not None:
                self._uploader.cancel()
            conn.pool.discard(conn)
