"""The control plane's parts, put together; calls (`ca.calls_*`) work on this."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ca.access import Access, Caller
from ca.authority import Authority, Issued
from ca.directory import Directory
from ca.http import Request
from ca.hub import Bell, Hub
from ca.log import Log
from ca.policy import Policy
from ca.registry import Registry
from ca.store.base import Certificate, Store
from ca.template import LEAF_LIFETIME
from meshkit.identity import pem
from meshkit.identity.csr import PublicKey
from meshkit.identity.judge import Judge
from meshkit.model.check import Known


@dataclass(slots=True)
class Plane:
    """``now`` is Unix time, ``monotonic`` the clock of leases; both in seconds."""

    authority: Authority
    store: Store
    log: Log
    directory: Directory
    access: Access
    policy: Policy
    hub: Hub = field(default_factory=Hub)
    registry: Registry = field(default_factory=Registry)
    registry_bell: Bell = field(default_factory=Bell)
    leaf_lifetime: float = LEAF_LIFETIME
    epoch: str = ""
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def issue(self, identity: str, key: PublicKey) -> Issued:
        """Sign for an identity that the caller was found entitled to."""
        return self.authority.issue(identity, key, self.now(), self.leaf_lifetime)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: who, what, and the variable parts of its path."""

    request: Request
    caller: Caller
    args: tuple[str, ...]


async def open_plane(authority: Authority, store: Store, log: Log) -> Plane:
    """Read the store and wire the parts together."""
    hub, directory = Hub(), Directory(store)
    mesh = authority.mesh
    judge = Judge({mesh.trust_domain: pem.to_der(authority.root_pem)})

    def known() -> Known:
        ports = {
            service: {port.port: port.protocol for port in naming.ports}
            for service, naming in directory.naming.items()
        }
        return Known(mesh, ports, complete=False)

    policy = Policy(store, known, hub.ring)
    access = Access(judge, directory, mesh.trust_domain)
    await directory.refresh()
    await policy.open()
    plane = Plane(authority, store, log, directory, access, policy, hub)
    plane.epoch = await store.epoch()
    return plane


def record_of(issued: Issued, host: str) -> Certificate:
    """An issued certificate as the store keeps it."""
    return Certificate(issued.serial, issued.identity, host, issued.not_before, issued.not_after)
