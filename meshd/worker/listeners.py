"""The sockets this worker accepts on.

A descriptor may come before or after the configuration that explains it, so
accepting depends on both: it runs exactly while the live HostConfig has the
listener's id.  A lent descriptor is a missing worker's: its queue is served here
until that worker is back.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from meshd.worker.accept import serve
from meshd.worker.listener import Listener
from meshd.worker.log import log
from meshd.worker.loop import Cancelled, Fiber

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext

Key = tuple[str, bool]


class Listeners:
    """Own and lent listeners by id, with the fibers that accept on them."""

    def __init__(self, ctx: WorkerContext) -> None:
        self._ctx = ctx
        self._sockets: dict[Key, socket.socket] = {}
        self._fibers: dict[Key, Fiber] = {}

    def own(self) -> dict[str, int]:
        """id → descriptor, for the hello of an adopted worker."""
        return {key[0]: sock.fileno() for key, sock in self._sockets.items() if not key[1]}

    def add(self, ident: str, fd: int, lent: bool) -> None:
        """Take a listening descriptor; replaces an earlier one of the same id."""
        self.remove(ident, lent)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self._sockets[ident, lent] = sock
        self.refresh()

    def remove(self, ident: str, lent: bool) -> None:
        """Stop accepting and close our copy; the agent's copy keeps the queue."""
        fiber = self._fibers.pop((ident, lent), None)
        if fiber is not None:
            fiber.cancel()
        sock = self._sockets.pop((ident, lent), None)
        if sock is not None:
            self._ctx.loop.unregister(sock.fileno())
            sock.close()

    def refresh(self) -> None:
        """Accept on what the live configuration names, and on nothing else."""
        ctx = self._ctx
        named = {} if ctx.draining else {spec.id for spec in ctx.specs()}
        for key, sock in self._sockets.items():
            running = self._fibers.get(key)
            if key[0] in named and (running is None or running.done):
                self._fibers[key] = ctx.loop.spawn(self._accept(key[0], sock), f"accept {key[0]}")
            elif key[0] not in named and running is not None:
                running.cancel()
                del self._fibers[key]

    async def _accept(self, ident: str, sock: socket.socket) -> None:
        ctx = self._ctx
        listener = Listener(ctx.loop, sock)
        try:
            while True:
                accepted, _address = await listener.accept()
                spec = ctx.spec(ident)
                if spec is None or ctx.connections >= ctx.connection_limit:
                    ctx.limit("connections")
                    accepted.close()
                    continue
                ctx.bump("connections", listener=ident)
                ctx.loop.spawn(serve(ctx, spec, accepted), spec.kind)
        except Cancelled:
            raise
        except OSError as error:
            log("error", "listener_failed", listener=ident, reason=str(error))
            raise
        finally:
            listener.close()
