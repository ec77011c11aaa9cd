"""The sockets this worker accepts on.

A descriptor may come before or after the configuration that explains it, so
accepting depends on both: it runs exactly while the live HostConfig has the
listener's id.  A lent descriptor is a missing worker's: its queue is served here
until that worker is back; several missing workers lend one each.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from meshd.worker.accept import serve
from meshd.worker.admission import source_of
from meshd.worker.listener import Listener
from meshd.worker.log import log
from meshd.worker.loop import Cancelled, Fiber

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext

OWN = -1
Key = tuple[str, int]
"""Listener id, and the index of the worker that it was lent for (`OWN`: none)."""


class Listeners:
    """Own and lent listeners by id, with the fibers that accept on them."""

    def __init__(self, ctx: WorkerContext) -> None:
        self._ctx = ctx
        self._sockets: dict[Key, socket.socket] = {}
        self._fibers: dict[Key, Fiber] = {}

    def own(self) -> dict[str, int]:
        """id → descriptor, for the hello of an adopted worker."""
        return {key[0]: sock.fileno() for key, sock in self._sockets.items() if key[1] == OWN}

    def add(self, ident: str, fd: int, owner: int = OWN) -> None:
        """Take a listening descriptor; replaces an earlier one of the same key."""
        self._drop((ident, owner))
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self._sockets[ident, owner] = sock
        self.refresh()

    def remove(self, ident: str, lent: bool) -> None:
        """Close our own copy, or all those lent; the agent's copies keep the queues."""
        for key in [k for k in self._sockets if k[0] == ident and (k[1] != OWN) == lent]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        fiber = self._fibers.pop(key, None)
        if fiber is not None:
            fiber.cancel()
        sock = self._sockets.pop(key, None)
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
        listener = Listener(ctx.loop, sock, lambda: ctx.bump("accept_pauses"))
        try:
            while True:
                accepted, address = await listener.accept()
                spec = ctx.spec(ident)
                if spec is None:
                    accepted.close()
                    continue
                source = source_of(address[0])
                reason = ctx.admission.enter(spec, source, ctx.limits_for(spec))
                if reason:
                    ctx.bump("connections_refused", reason=reason)
                    accepted.close()
                    continue
                ctx.bump("connections", listener=ident)
                ctx.loop.spawn(serve(ctx, spec, accepted, source), spec.kind)
        except Cancelled:
            raise
        except OSError as error:
            log("error", "listener_failed", listener=ident, reason=str(error))
            raise
        finally:
            listener.close()
