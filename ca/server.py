"""`mesh-ca serve`: listeners, the server's own certificate, leases, housekeeping."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ca.api import Api
from ca.authority import Issued, open_authority
from ca.http import Gate, serve_connection
from ca.plane import Plane
from ca.tls import server_context
from meshkit.identity import rotation, spiffe
from meshkit.identity.csr import judge_request, make_key_and_request

BACKLOG = 512
HOUSEKEEPING = 3600.0
"""Seconds between looks at the intermediate's age and at what has long expired."""
LEASE_RESOLUTION = 0.25
"""Seconds by which a lease may be late: expiry looks this often at most."""


@dataclass(slots=True)
class Server:
    """``names`` are DNS names and addresses put beside the SPIFFE id in its certificate."""

    plane: Plane
    state: Path
    names: tuple[str, ...] = ()
    gate: Gate = field(default_factory=Gate)
    own: Issued | None = None
    _tls: ssl.SSLContext | None = None

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled.  Started when calls are answered."""
        self.renew_own()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_certificate)
            nursery.start_soon(self._expire_leases)
            nursery.start_soon(self._keep_house)
            await nursery.start(trio.serve_listeners, self._serve, list(listeners))
            task_status.started()

    def renew_own(self) -> None:
        """A new key and certificate for new connections; the old ones end in their time."""
        mesh = self.plane.authority.mesh
        identity = spiffe.server_id(mesh.trust_domain, mesh.root_namespace)
        key, request = make_key_and_request()
        public = judge_request(request, identity)
        authority = self.plane.authority
        self.own = authority.issue(
            identity, public, self.plane.now(), self.plane.leaf_lifetime, self.names
        )
        self._tls = server_context(key, self.own.chain, authority.root_pem)
        self.plane.log.info("own_certificate", serial=self.own.serial, not_after=self.own.not_after)

    async def _keep_certificate(self) -> None:
        while self.own is not None:
            life = rotation.Validity(self.own.not_before + rotation.BACKDATE, self.own.not_after)
            await trio.sleep(max(1.0, rotation.renew_at(life, 0.5) - self.plane.now()))
            with self._surviving("own_certificate_failed"):
                self.renew_own()

    async def _expire_leases(self) -> None:
        while True:
            now, due = self.plane.monotonic(), self.plane.registry.next_expiry()
            await trio.sleep(max(LEASE_RESOLUTION, min(1.0, due - now if due else 1.0)))
            for host in self.plane.registry.expire(self.plane.monotonic()):
                self.plane.log.warning("lease_expired", host=host)
                self.plane.registry_bell.ring()

    async def _keep_house(self) -> None:
        while True:
            with self._surviving("housekeeping_failed"):
                await self.plane.store.prune(self.plane.now())
                self._reopen_authority()
            await trio.sleep(HOUSEKEEPING)

    def _reopen_authority(self) -> None:
        """Renew the intermediate when it is due; take up what came into ``roots.d``."""
        authority, renewed = self.plane.authority, open_authority(self.state, self.plane.now())
        if renewed.intermediate.certificate != authority.intermediate.certificate:
            self.plane.log.info("intermediate_renewed")
            authority.intermediate = renewed.intermediate
        if renewed.foreign != authority.foreign:
            authority.foreign = renewed.foreign
            self.plane.hub.ring()

    @contextlib.contextmanager
    def _surviving(self, event: str) -> Iterator[None]:
        """A full disk or a damaged file is logged and tried again; calls are still answered."""
        try:
            yield
        except Exception as error:
            self.plane.log.error(event, error=repr(error))

    async def _serve(self, tcp: trio.SocketStream) -> None:
        """One connection; whatever goes wrong with it stays with it."""
        if self.gate.is_full():
            self.plane.log.warning("connection_limit", connections=self.gate.connections,
                                   handshakes=self.gate.handshakes)  # fmt: skip
            await trio.aclose_forcefully(tcp)
            return
        self.gate.connections += 1
        try:
            api = Api(self.plane)
            await serve_connection(tcp, self._tls, api.handle, self.gate, self._refused)
        except Exception as error:
            self.plane.log.error("connection_failed", error=repr(error))
        finally:
            self.gate.connections -= 1

    def _refused(self, peer: str, reason: str) -> None:
        self.plane.log.warning("handshake_refused", peer=peer, reason=reason)


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listeners for ``host:port``; OSError.  Port 0 picks a free one."""
    return list(await trio.open_tcp_listeners(port, host=host or None, backlog=BACKLOG))
