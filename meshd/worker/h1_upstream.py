"""HTTP/1.1 to an upstream for a request that came over HTTP/2 (`streams.Upstream`).

One connection carries one request, as in `Exchange._try`; what differs is that
the downstream's side is not HTTP/1.1, so that body and answer are passed on as
pieces and trailers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshd.worker.fiber import Fiber
from meshd.worker.streams import UpstreamFailed
from meshd.worker.upstream import Connection, Pool
from meshkit.http.fields import Field
from meshkit.http.framing import CHUNKED
from meshkit.http.h1 import RequestHead, ResponseHead, chunk, last_chunk, render_request

if TYPE_CHECKING:
    from meshkit.http.h1 import ResponseReader

PIECE = 16_384
"""Bytes of an answer passed on at once: a DATA frame's worth."""


class H1Upstream:
    """A connection, while it carries one request."""

    def __init__(self, pool: H1Pool, conn: Connection, reused: bool) -> None:
        self.pool = pool
        self.local = conn.local
        self.conn = conn
        self.reader: ResponseReader = conn.reader
        self._outcome = "reused-reset" if reused or pool.sni else "reset"
        self._method = b""
        self._chunked = False
        self._head = b""
        self._sender: Fiber | None = None
        self._ended = False
        self._done = False

    @property
    def trailers(self) -> Sequence[Field]:
        return self.reader.trailers

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
        body = head.body if more else len(payload)
        self._method = head.method
        self._chunked = body == CHUNKED
        data = render_request(head.method, path, head.authority, [*fields, *added], body)
        self._begin(data + payload)

    def _begin(self, data: bytes) -> None:
        try:
            sent = self.conn.stream.try_send(data)
        except OSError as error:
            raise self._broken(error) from error
        if sent != len(data):
            # What is left goes first, whoever sends next; nobody waits for it here.
            loop = self.conn.stream.loop
            self._sender = loop.spawn(self._send_rest(data, sent), "h1 request")

    async def _send_rest(self, data: bytes, sent: int) -> None:
        try:
            await self.conn.stream.send_rest(data, sent)
        except OSError:
            pass  # the reader sees it

    async def send(self, data: bytes) -> None:
        if self._sender is not None:
            await self._sender.join()
        await self.conn.stream.send(chunk(data) if self._chunked else data)

    async def end(self, trailers: Sequence[Field]) -> None:
        if self._chunked:
            if self._sender is not None:
                await self._sender.join()
            await self.conn.stream.send(last_chunk(trailers))

    # The answer

    def head(self) -> ResponseHead | None:
        return self.reader.head(self._method)

    async def wait(self) -> None:
        """Feed the answer's reader once."""
        try:
            received = await self.conn.stream.recv()
        except OSError as error:
            raise self._broken(error) from error
        if received:
            self._outcome = "reset-after-bytes"
            self.reader.feed(received)
        elif self._outcome == "reset-after-bytes" and not self._ended:
            self._ended = True
            self.reader.eof()
        else:
            raise self._broken(ConnectionResetError("closed before the answer"))

    def _broken(self, error: OSError) -> UpstreamFailed:
        outcome = self._outcome
        if self.conn.stream.tls_alert and outcome != "reset-after-bytes":
            outcome = "tls-alert"
        return UpstreamFailed(outcome, "upstream_reset", str(error))

    def whole(self, response: ResponseHead) -> bytes | None:
        return self.reader.whole_body() if response.body else b""

    def take(self) -> bytes | None:
        return self.reader.body(PIECE)

    def took(self, size: int) -> None:
        """The kernel gives an HTTP/1.1 upstream its credit."""

    # The end

    def stop(self) -> None:
        self.conn.stream.abort()

    def release(self, response: ResponseHead, sent: bool) -> None:
        self._done = True
        reader = self.reader
        if self._sender is not None and not self._sender.done:
            self._sender.cancel()
        elif (
            (sent and response.keep_alive and reader.done and not reader.buffered)
            # As in `Transfer._release`: a body after HEAD would be the next caller's answer.
            and (self._method != b"HEAD" or self.pool.sni or not response.framing)
        ):
            self.pool.give(self.conn, self.conn.stream.loop.now)
            return
        self.pool.discard(self.conn)

    def abandon(self) -> None:
        if not self._done:
            self._done = True
            if self._sender is not None:
                self._sender.cancel()
            self.pool.discard(self.conn)


class H1Pool(Pool):
    """Connections for requests of either version."""

    __slots__ = ()

    def lease(self) -> H1Upstream | None:
        """For one request on an idle connection, or None: `open_lease`."""
        conn = self.take()
        return None if conn is None else H1Upstream(self, conn, True)

    async def open_lease(self, timeout: float) -> H1Upstream:
        return H1Upstream(self, await self.open(timeout), False)
