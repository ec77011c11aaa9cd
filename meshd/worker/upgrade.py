"""Upgrades: a request whose answer turns its connection, or its stream, into a tunnel.

HTTP/1.1 asks with Upgrade and is answered 101, HTTP/2 asks with an extended CONNECT and is
answered 2xx; any of the two on either side makes four ways, and all go through the try of
`streams`, in HTTP/2's terms: here `H1Tunnel` and `H2Tunnel` say an upstream's 101 as a 200 with
``upgrade`` set, and `join` says it to the client in its own version.

Where bytes wait: what a client sends before its answer stays unread (or in its window) until the
upstream has agreed, and after any other answer it is not taken for a request.  Once there is a
tunnel the route's timeout is over, and only `Limits.stream_idle` ends it (`watch`).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from meshd.worker.entry import Unroutable
from meshd.worker.h1_upstream import H1Upstream
from meshd.worker.h2_client import H2Upstream
from meshd.worker.pump import Pump
from meshd.worker.streams import UpstreamFailed
from meshd.worker.transfer import READ, ClientGone
from meshkit.http.fields import Field
from meshkit.http.h1 import (
    CHUNKED,
    NO_LENGTH,
    RequestHead,
    ResponseHead,
    render_request,
    render_response,
)
from meshkit.http.h2 import GoingAway, StreamsExhausted
from meshkit.http.h2_head import request_fields
from meshkit.http.upgrade import (
    KEY_BYTES,
    SWITCHING,
    WEBSOCKET,
    check_request,
    check_switch,
    new_key,
    offer_lines,
    only,
    with_accept,
    with_key,
    without_key,
)

if TYPE_CHECKING:
    from meshd.worker.exchange import Exchange
    from meshd.worker.routes import Choice
    from meshd.worker.stream import Stream
    from meshd.worker.streams import Upstream


def ask(x: Exchange) -> None:
    """Judge a request for an upgrade.  Raises HTTPError 400, Unroutable."""
    check_request(x.head)
    if x.ctx.draining:
        raise Unroutable("draining")
    if not x.head.http2 and x.down.reader.buffered:
        x.keep = False  # sent for the tunnel: after any other answer nobody may read it
    x._try = x._stream_try  # type: ignore[method-assign]


async def tunnel_of(up: Upstream, x: Exchange) -> Upstream:
    """The same upstream, able to become a tunnel.  Raises UpstreamFailed."""
    if isinstance(up, H1Upstream):
        return H1Tunnel(up, x)
    assert isinstance(up, H2Upstream)
    if not await up.conn.takes_connect():
        detail = "the endpoint's HTTP/2 takes no extended CONNECT (RFC 8441)"
        raise UpstreamFailed("no-connect-protocol", "upgrade_not_supported", detail)
    return H2Tunnel(up, x)


def opened(response: ResponseHead, protocol: bytes) -> ResponseHead:
    """The sign that there is a tunnel: a 200, as HTTP/2 has it."""
    head = ResponseHead(False, 200, b"OK", response.headers)
    head.facts, head.upgrade = response.facts, protocol
    head.body = head.framing = CHUNKED
    return head


class H1Tunnel(H1Upstream):
    """An HTTP/1.1 connection that is asked for an upgrade."""

    def __init__(self, up: H1Upstream, x: Exchange) -> None:
        super().__init__(up.pool, up.conn, False)
        self._outcome = up._outcome
        self._x = x
        self._offered = b""
        self._key = b""
        self._joined = False

    def begin(
        self,
        head: RequestHead,
        path: bytes,
        fields: Sequence[Field],
        added: Sequence[Field],
        payload: bytes,
        more: bool,
    ) -> None:
        self._method = head.method
        self._offered = head.upgrade
        if head.http2:
            if head.upgrade == WEBSOCKET:
                self._key = new_key(self._x.ctx.random.randbytes(KEY_BYTES))
                fields = with_key(fields, self._key)
        else:
            self._key = check_request(head)
        self.reader.upgrading = True
        lines = offer_lines(head.upgrade)
        fields = [*fields, *added]
        self._begin(render_request(head.method, path, head.authority, fields, 0, lines))

    def head(self) -> ResponseHead | None:
        response = self.reader.head(self._method)
        if response is not None and response.status == SWITCHING:
            check_switch(self._offered, self._key, response)
            self._joined = True
            return opened(response, response.upgrade)
        if response is not None and response.status >= 200:
            self.reader.upgrading = False  # the connection may carry another request
            _declined(self._x)
        return response

    def whole(self, response: ResponseHead) -> bytes | None:
        return None if self._joined else super().whole(response)

    def take(self) -> bytes | None:
        if not self._joined:
            return super().take()
        return self.reader.rest() or (b"" if self._ended else None)

    async def end(self, trailers: Sequence[Field]) -> None:
        await _end(self.conn.stream)

    def abandon(self) -> None:
        if self._joined:
            self.conn.stream.abort()
        super().abandon()


class H2Tunnel(H2Upstream):
    """A stream that is asked to be a tunnel."""

    def __init__(self, up: H2Upstream, x: Exchange) -> None:
        super().__init__(up.conn)
        self._x = x
        self._offered = b""

    def begin(
        self,
        head: RequestHead,
        path: bytes,
        fields: Sequence[Field],
        added: Sequence[Field],
        payload: bytes,
        more: bool,
    ) -> None:
        self.method, self._offered = head.method, only(head.upgrade)
        fields = [*without_key(fields), *added]
        wire = request_fields(
            *(b"CONNECT", b"http", head.authority, path, fields, CHUNKED),
            trailers_ok=False,
            protocol=self._offered,
        )
        conn = self.conn
        try:
            self.id = conn.engine.request(wire, False)
        except (GoingAway, StreamsExhausted) as error:
            self.done = True
            raise UpstreamFailed("refused-stream", "upstream_reset", str(error)) from None
        conn.streams[self.id] = self
        conn.touch()

    def head(self) -> ResponseHead | None:
        response = super().head()
        if response is None or response.status < 200:
            return response
        if response.status < 300 and not self.ended:
            return opened(response, self._offered)
        _declined(self._x)
        return response


# The client's side


def _declined(x: Exchange) -> None:
    """An ordinary answer: what came early was meant for a tunnel, and is no request."""
    if not x.head.http2 and x.keep and x.down.stream.readable_now():
        x.keep = False


async def join(x: Exchange, response: ResponseHead, choice: Choice, up: Upstream) -> None:
    """The upstream has agreed: tell the client, then pass on whatever comes, both ways."""
    ctx, fiber = x.ctx, x.runner()
    x.keep, x.tunnel = False, True
    x.deadline = fiber.expires = 0.0
    await _switch(x, response, choice, up)
    known = response.upgrade == WEBSOCKET
    ctx.bump("upgrades", protocol="websocket" if known else "other")
    ctx.tunnels += 1
    try:
        if isinstance(up, H1Tunnel) and not x.head.http2:
            await _pump(x, up)
        else:
            await _relay(x, up)
    except BaseException:
        if not x.head.http2:
            x.down.stream.abort()  # what was cut must not look ended
        raise
    finally:
        ctx.tunnels -= 1
        for name in ("_try", "end_now", "_body_piece"):
            x.__dict__.pop(name, None)  # each refers to x itself: a cycle with both connections


async def _switch(x: Exchange, response: ResponseHead, choice: Choice, up: Upstream) -> None:
    if x.head.http2:
        response.headers = without_key(response.headers)
        await x._answer_begin(response, choice, up)
        return
    headers = with_accept(response.headers, check_request(x.head))
    if response.upgrade != WEBSOCKET:
        headers = response.headers
    for ops in choice.response_ops:
        headers = ops.apply(headers)
    extra = offer_lines(response.upgrade)
    if x.entry.inbound:
        extra += x.entry.facts_header
    elif up.pool.sni:
        x.peer_facts = response.facts
    x.status, x.answered = SWITCHING, monotonic()
    phrase = b"Switching Protocols"
    await x.down.stream.send(render_response(SWITCHING, phrase, headers, NO_LENGTH, True, extra))


async def _pump(x: Exchange, up: H1Tunnel) -> None:
    """Connection to connection."""
    down = x.down
    pump = Pump(
        *(x.ctx.loop, down.stream, up.conn.stream),
        first_up=down.reader.rest(),
        first_down=up.reader.rest(),
    )
    # Whoever ends it says why (`watch`); the pump itself need not look at the time.
    x.end_now = lambda now: pump.stop(x.flags, x.failure)  # type: ignore[method-assign]
    try:
        await pump.run()
    finally:
        x.bytes_in, x.bytes_out = pump.sent, pump.received
    if pump.flags != "-":
        x.flags, x.failure = pump.flags, pump.why


async def _relay(x: Exchange, up: Upstream) -> None:
    """Where one side at least is a stream of HTTP/2."""
    if not x.head.http2:
        x._body_piece = lambda: _raw_piece(x)  # type: ignore[method-assign]
    x._uploader = x.ctx.loop.spawn(x._feed(up), "tunnel")
    await x._answer_pieces(up)
    if x.head.http2:
        await x._answer_end(())
    else:
        await _end(x.down.stream)
    await x._uploader.join()
    if x._client_gone is not None:
        raise x._client_gone


async def _end(stream: Stream) -> None:
    """Our side has ended; reading goes on."""
    while not stream.shutdown_write():
        await stream.wait_writable()


async def _raw_piece(x: Exchange) -> bytes:
    """What an HTTP/1.1 client sends now that it is no HTTP; b"" = it has ended its side."""
    down = x.down
    rest = down.reader.rest()
    if rest:
        return rest
    try:
        data = await down.stream.recv(READ)
        if not data and down.stream.ragged and not x.entry.edge:
            raise ConnectionResetError(errno.ECONNRESET, "cut without close_notify")
    except OSError as error:
        raise ClientGone(None) from error
    return data
