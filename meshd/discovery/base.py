"""What every discovery backend offers; `tests/meshd/discovery/conformance.py` holds them to it.

Discovery gives addresses only.  Who may serve a service is said by the policy
server (secure naming), and nothing here can widen it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshkit.model.resources import LocalService
from meshkit.names import ServiceName


@dataclass(frozen=True, slots=True)
class Instance:
    """One healthy instance of one port of a service.

    ``address:port`` is where plaintext callers reach it (the service's port on
    its host); ``mesh_port`` the mTLS port of its meshd, None for a service that
    is not in the mesh.
    """

    service: ServiceName
    instance: str
    host: str
    address: str
    port: int
    protocol: str
    mesh_port: int | None = None
    port_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Held:
    """A set kept although discovery now says otherwise: shown by `meshctl status`."""

    service: ServiceName
    reason: str
    since: float
    until: float | None
    """Seconds of the caller's clock; None = until the next good answer."""


@dataclass(frozen=True, slots=True)
class View:
    """What discovery knows now.  Sets are replaced whole, never mutated."""

    instances: Mapping[ServiceName, tuple[Instance, ...]]
    held: tuple[Held, ...] = ()
    connected: bool = True
    error: str = ""


class Discovery(Protocol):
    """A backend.  `run` lives for the agent's life; the rest is called beside it."""

    async def run(self) -> None:
        """Watch and register until cancelled.  Faults of the backend never raise."""

    async def register(self, services: Sequence[LocalService]) -> None:
        """Make the backend hold exactly these local services of this host.

        Idempotent; returns when the wish is recorded (the backend may be away:
        `run` goes on trying).  What is no longer listed is deregistered.
        """

    def report_health(self, instance: str, healthy: bool) -> None:
        """meshd's own verdict on a local instance (``<ns>/<name>/<instance>``)."""

    def watch(self, services: Collection[ServiceName] | None) -> None:
        """Services that local ones may reach; None = every service there is."""

    def view(self) -> View:
        """What is known now."""

    async def changed(self) -> None:
        """Return when `view` has changed since the last `changed` returned."""
