"""What the agent's tasks share: the host's state, and the signals between tasks.

One task writes each field; the others read it after the signal.  ``compile``
is rung by whoever changes an input of the snapshot, ``report`` by whoever
changes what the policy server should know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from meshd.agent.identities import Roster
from meshd.agent.ledger import KeyPair
from meshd.agent.log import Log
from meshd.agent.policy import PolicyState
from meshd.agent.pool import Pool
from meshd.agent.signals import Signal
from meshd.agent.store import HOST, Identity, Membership, Store
from meshd.config import AgentConfig
from meshd.discovery.base import Discovery, Instance, View
from meshd.services import HostServices
from meshkit.names import ServiceName
from meshkit.routing.edge import Edge
from meshkit.snapshot.types import Snapshot

Instances = Mapping[ServiceName, tuple[Instance, ...]]


@dataclass(slots=True)
class Link:
    """The connection to the policy server as it is now."""

    connected: bool = False
    error: str = "not tried yet"


@dataclass(slots=True)
class Admission:
    """The policy server's answer to our declaration: ``ns/name``, and (name, reason, remedy)."""

    admitted: tuple[str, ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()


@dataclass(slots=True)
class Compiled:
    """The snapshot that workers should run, and the policy revision it was made from."""

    snapshot: Snapshot | None = None
    revision: int = 0
    informed: bool = False
    """Whether it was made with policy and instances known, not before the first answers."""
    live_revision: int = 0
    """The last policy revision that every worker ran."""
    fault: str = ""
    warnings: tuple[str, ...] = ()


@dataclass
class Agent:
    """``wall`` is Unix time in seconds, ``chance`` a number in [0, 1)."""

    config: AgentConfig
    log: Log
    store: Store
    pool: Pool
    wall: Callable[[], float]
    chance: Callable[[], float]
    roster: Roster
    policy: PolicyState
    member: Membership | None
    services: HostServices = field(default_factory=HostServices)
    discovery: Discovery | None = None
    remembered: Instances = field(default_factory=dict)
    """Instances that were on disk at the start, until discovery has spoken."""
    link: Link = field(default_factory=Link)
    admission: Admission = field(default_factory=Admission)
    compiled: Compiled = field(default_factory=Compiled)
    edge: Edge = field(default_factory=Edge)
    edge_faults: dict[str, str] = field(default_factory=dict)
    """Certificate name → why its files cannot be used."""
    compile: Signal = field(default_factory=Signal)
    report: Signal = field(default_factory=Signal)
    declare: Signal = field(default_factory=Signal)
    identities: Signal = field(default_factory=Signal)
    services_changed: Signal = field(default_factory=Signal)
    edge_keys: dict[str, KeyPair] = field(default_factory=dict)
    joined: trio.Event = field(default_factory=trio.Event)
    renewals: int = 0
    renewal_failures: int = 0
    reload_fault: str = ""
    leaving: bool = False
    """This host is being shut down: its services are deregistered."""

    @property
    def gateway(self) -> bool:
        return self.config.role == "gateway"

    def view(self) -> View:
        """Discovery's view, or an empty one before there is a backend."""
        if self.discovery is None:
            return View({}, connected=False, error="no identity yet")
        return self.discovery.view()

    def usable(self) -> dict[str, Identity]:
        return self.roster.usable(self.wall())

    def wanted_names(self) -> list[str]:
        """The identities that this host should hold."""
        accounts = {f"{s.namespace}/{s.service_account}" for s in self.services.services}
        if self.gateway:
            accounts.add(self.config.account)
        return [HOST, *sorted(accounts)]
