"""What a compilation starts from: plain values that the agent collects.

The structural types stand for what discovery and the policy stream hold, so
that this package needs neither.  Sets are replaced, never mutated: the compiler
recognises what is unchanged by identity first, by equality after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshkit.model.resources import LocalService, Resource
from meshkit.names import MeshSettings, ServiceName


class PortLike(Protocol):
    """A service port as the policy server names it."""

    @property
    def name(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def protocol(self) -> str: ...


class NamingLike(Protocol):
    """Secure naming of one service: who may serve it (SPIFFE ids), on which ports."""

    @property
    def accounts(self) -> Sequence[str]: ...
    @property
    def ports(self) -> Sequence[PortLike]: ...


class InstanceLike(Protocol):
    """One instance of one port: `meshd.discovery.base.Instance` is one."""

    @property
    def instance(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def mesh_port(self) -> int | None: ...
    @property
    def port_name(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def weight(self) -> int: ...


@dataclass(frozen=True, slots=True)
class NamedPort:
    """The plain `PortLike`."""

    name: str
    port: int
    protocol: str = "HTTP"


@dataclass(frozen=True, slots=True)
class Naming:
    """The plain `NamingLike`."""

    accounts: tuple[str, ...]
    ports: tuple[NamedPort, ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """What makes this host a gateway.

    ``labels`` are what Gateway.selector selects; ``namespace`` and
    ``service_account`` are the identity that it calls with, and the namespace its
    DestinationRules are looked up from; ``bind`` listens where a server says nothing.
    """

    labels: Mapping[str, str]
    namespace: str
    service_account: str
    bind: str = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class HostParts:
    """The host's own configuration, resolved.

    ``address`` is where others reach this host; ``mesh_port`` None without inbound
    services (a gateway).  ``proxy`` is the local HTTP proxy's address and port.
    ``uids`` maps each `LocalService.user` ("" included) to its uid.
    """

    name: str
    address: str
    mesh_port: int | None = None
    proxy: tuple[str, int] | None = None
    services: tuple[LocalService, ...] = ()
    uids: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    gateway: GatewayParts | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a snapshot depends on.

    ``scopes``: namespaces of local callers beyond those of ``host.services``.
    """

    host: HostParts
    mesh: MeshSettings = field(default_factory=MeshSettings)
    resources: tuple[Resource, ...] = ()
    naming: Mapping[ServiceName, NamingLike] = field(default_factory=dict)
    instances: Mapping[ServiceName, Sequence[InstanceLike]] = field(default_factory=dict)
    scopes: frozenset[str] = frozenset()
