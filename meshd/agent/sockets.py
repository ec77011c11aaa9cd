"""Listening sockets: one SO_REUSEPORT socket per listener and worker, kept for life.

Measured: four workers on one shared socket took 64/0/0/0 of 64 connections, on
one socket each 10/20/20/14.  The kernel queues a connection on one socket of
the group, and closing that socket resets it; so the agent holds every one as
long as the listener is wanted, whatever becomes of workers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meshd.agent.remedies import cannot_bind

BACKLOG = 4096
"""Connections that wait while a worker is replaced (the kernel caps it at somaxconn)."""


@dataclass(frozen=True, slots=True)
class Want:
    """A listener's key and where it binds; the same id elsewhere is another listener."""

    id: str
    address: str
    port: int


def open_socket(address: str, port: int, *, shared: bool = True) -> socket.socket:
    """Bound, listening, non-blocking, close-on-exec.  OSError where it cannot be."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
        sock.bind((address, port))
        if shared:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def probe(address: str, port: int) -> None:
    """OSError if somebody already listens there.

    SO_REUSEPORT would let two daemons of one user share the port in silence,
    each getting a part of the connections; a bind without it does not.
    """
    open_socket(address, port, shared=False).close()


def where(descriptor: int) -> tuple[str, int]:
    """Address and port a descriptor is bound to."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        name = sock.getsockname()
    return str(name[0]), int(name[1])


class Sockets:
    """All listening sockets of this host: ``(listener id, worker index)`` → socket."""

    def __init__(self, workers: int):
        self._workers = workers
        self._held: dict[str, dict[int, socket.socket]] = {}
        self._wants: dict[str, Want] | None = None
        """None until the first `open`: nothing is surplus before anything is wanted."""
        self._moves: dict[str, int] = {}
        self.faults: dict[str, str] = {}
        """Listener id → why it is not open; tried again at every `open`."""

    def get(self, listener: str, index: int) -> socket.socket | None:
        return self._held.get(listener, {}).get(index)

    def ids(self) -> list[str]:
        """Listeners that are open."""
        return sorted(self._held)

    def offered(self) -> dict[str, int]:
        """Open and wanted: what every worker should hold, with how often it has moved."""
        return {i: self._moves.get(i, 0) for i in sorted(set(self._held) & set(self._wants or ()))}

    def adopt(
        self, index: int, listeners: Sequence[str], descriptors: Sequence[int]
    ) -> dict[str, int]:
        """Take over the descriptors of a hello; returns those that are as they should be.

        A descriptor for a slot that we hold already is the same socket (the
        worker reconnected) or an older one, to be replaced by ours; it is closed.
        Takes ownership of all descriptors.
        """
        kept = {}
        for listener, descriptor in zip(listeners, descriptors, strict=True):
            held = self.get(listener, index)
            if held is None and self._fits(listener, descriptor):
                group = self._held.setdefault(listener, {})
                group[index] = socket.socket(fileno=descriptor)
                kept[listener] = self._moves.get(listener, 0)
                continue
            if held is not None and os.path.sameopenfile(held.fileno(), descriptor):
                kept[listener] = self._moves.get(listener, 0)
            os.close(descriptor)
        return kept

    def _fits(self, listener: str, descriptor: int) -> bool:
        want = (self._wants or {}).get(listener)
        try:
            bound = where(descriptor)
        except OSError:
            return False
        return want is None or bound == (want.address, want.port)

    def open(self, wants: Iterable[Want]) -> list[str]:
        """Open what is wanted and missing; returns the ids that are new."""
        wanted = self._wants = {w.id: w for w in wants}
        self.faults = {}
        fresh = []
        for want in wanted.values():
            self._drop_if_moved(want)
            if self._complete(want):
                fresh.append(want.id)
        return fresh

    def _drop_if_moved(self, want: Want) -> None:
        group = self._held.get(want.id, {})
        if any(s.getsockname()[:2] != (want.address, want.port) for s in group.values()):
            # Workers hold the old address under this id until they get the new socket.
            self._moves[want.id] = self._moves.get(want.id, 0) + 1
            self._close(want.id)

    def _complete(self, want: Want) -> bool:
        """Fill the group of a listener; True if it has changed."""
        group = self._held.get(want.id, {})
        missing = [i for i in range(self._workers) if i not in group]
        if not missing:
            return False
        try:
            if not group:
                probe(want.address, want.port)
            opened = [open_socket(want.address, want.port) for _ in missing]
        except OSError as error:
            self.faults[want.id] = cannot_bind(want.address, want.port, error)
            return False
        self._held[want.id] = group | dict(zip(missing, opened, strict=True))
        return True

    def surplus(self) -> list[str]:
        """Open, but no longer wanted: closed by `close` once no worker accepts there."""
        return [] if self._wants is None else sorted(set(self._held) - set(self._wants))

    def close(self, listener: str) -> None:
        if listener in self._held:
            self._close(listener)

    def _close(self, listener: str) -> None:
        for sock in self._held.pop(listener).values():
            sock.close()

    def close_all(self) -> None:
        for listener in list(self._held):
            self._close(listener)
