"""Run-time values of TCP routes: what a connection is matched to, and what it is joined with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from meshd.worker.upstream import Dialer
from meshkit.balance.weighted import Weighted
from meshkit.routing.names import covers
from meshkit.snapshot.preface import ALPN_TCP, ALPN_TCP_RAW
from meshkit.snapshot.types import OutboundHost, TCPRoute

if TYPE_CHECKING:
    from meshd.worker.routes import Action, Cluster
    from meshd.worker.series import Local


class TCPDialer(Dialer):
    """Connections of which each carries one TCP connection: never idle, never shared."""

    __slots__ = ()

    alpn = ALPN_TCP

    @property
    def idle_count(self) -> int:
        return 0

    def sweep(self, now: float) -> None:
        """Nothing waits here."""

    def speaks(self, agreed: str | None) -> bool:
        """Without agreement the peer might take the bytes for anything: an Envoy must say so."""
        return agreed in (ALPN_TCP, ALPN_TCP_RAW)


class TCPChoice:
    """A weighted destination; ``cluster`` None: it names none that is known (NC)."""

    __slots__ = ("cluster", "cluster_name", "weight")

    def __init__(self, weight: int, cluster_name: str, cluster: Cluster | None) -> None:
        self.weight = weight
        self.cluster_name = cluster_name
        self.cluster = cluster


class TCPAction:
    """A route, ready to run.  ``idle``: seconds, None = the worker's limit."""

    __slots__ = ("_pick", "choices", "destination", "idle", "local", "name", "sni_hosts")

    def __init__(
        self,
        name: str,
        choices: Sequence[TCPChoice],
        destination: OutboundHost | None,
        *,
        idle: float | None = None,
        sni_hosts: tuple[str, ...] = (),
        local: Local | None = None,
    ) -> None:
        self.name = name
        self.choices = choices
        self.destination = destination
        self.idle = idle
        self.sni_hosts = sni_hosts
        self.local = local
        self._pick: Callable[[Random], TCPChoice] | None = None
        if len(choices) > 1:
            self._pick = Weighted(choices, [c.weight for c in choices]).pick

    def pick(self, random: Random) -> TCPChoice:
        """The destination of one connection."""
        return self.choices[0] if self._pick is None else self._pick(random)

    def takes(self, sni: str | None) -> bool:
        """Whether a connection with this server name (None = no TLS, or no name) is meant."""
        if not self.sni_hosts:
            return True
        return sni is not None and any(covers(pattern, sni) for pattern in self.sni_hosts)


class TCPTable:
    """A host's TCP routes by port, in order."""

    def __init__(self, spec: OutboundHost, clusters: Mapping[str, Cluster]) -> None:
        self._ports = {
            port: [_action(route, spec, clusters) for route in routes]
            for port, routes in spec.tcp.items()
        }

    def has(self, port: int) -> bool:
        """Whether a port (0 stands for any) carries TCP."""
        return bool(self._ports.get(port) or self._ports.get(0))

    def by_name(self, port: int) -> bool:
        """Whether the server name decides, so that the ClientHello must be waited for."""
        return any(action.sni_hosts for action in self._of(port))

    def find(self, port: int, sni: str | None) -> TCPAction | None:
        """The first route that takes it; None = NR."""
        return next((action for action in self._of(port) if action.takes(sni)), None)

    def _of(self, port: int) -> Sequence[TCPAction]:
        return self._ports.get(port) or self._ports.get(0) or ()


def _action(route: TCPRoute, spec: OutboundHost, clusters: Mapping[str, Cluster]) -> TCPAction:
    choices = [TCPChoice(d.weight, d.cluster, clusters.get(d.cluster)) for d in route.destinations]
    return TCPAction(route.name, choices, spec, idle=route.idle_timeout, sni_hosts=route.sni_hosts)


def inbound(action: Action) -> TCPAction:
    """The same destination as an inbound HTTP action's: the local application."""
    choices = [TCPChoice(c.weight, c.cluster_name, c.cluster) for c in action.choices]
    return TCPAction(action.name, choices, action.destination, local=action.local)
