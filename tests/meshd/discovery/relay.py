"""A TCP relay in front of a backend that can be cut, and that may rewrite what passes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

Rewrite = Callable[[bytes], bytes]


class Relay:
    """Relays 127.0.0.1:``port`` to ``target``; `cut` resets and refuses until `heal`."""

    def __init__(self, target: tuple[str, int], rewrite: Rewrite | None = None) -> None:
        self.rewrite = rewrite
        self.port = 0
        self.most_connections = 0
        self._target = target
        self._live: set[trio.CancelScope] = set()
        self._is_cut = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        self._is_cut = True
        for scope in self._live:
            scope.cancel()

    def heal(self) -> None:
        self._is_cut = False

    async def serve(self, client: trio.SocketStream) -> None:
        if self._is_cut:
            await trio.aclose_forcefully(client)
            return
        with trio.CancelScope() as scope:
            self._live.add(scope)
            self.most_connections = max(self.most_connections, len(self._live))
            try:
                await self._relay(client, scope)
            finally:
                self._live.discard(scope)

    async def _relay(self, client: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            server = await trio.open_tcp_stream(*self._target)
        except OSError:
            return
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, client, server, None, scope)
            nursery.start_soon(self._copy, server, client, self.rewrite, scope)

    async def _copy(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        rewrite: Rewrite | None,
        scope: trio.CancelScope,
    ) -> None:
        try:
            async for data in source:
                await sink.send_all(rewrite(bytes(data)) if rewrite else data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def relaying(target: tuple[str, int]) -> AsyncIterator[Relay]:
    relay = Relay(target)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        relay.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        yield relay
        nursery.cancel_scope.cancel()
