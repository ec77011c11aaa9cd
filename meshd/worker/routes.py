"""Run-time values of routes: what a request is matched to and forwarded by.

`VirtualHost` is one decoded `OutboundHost`; `Action` one route of it with
everything that a request needs resolved beforehand: destinations, header
operations as bytes, retry policy, and the counters' offsets by outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meshd.worker.h1_upstream import H1Pool
from meshd.worker.h2_client import H2Pool
from meshd.worker.record import Series
from meshd.worker.tcp_routes import TCPDialer, TCPTable
from meshkit.balance.pick import Balancer, make_balancer
from meshkit.balance.weighted import Weighted
from meshkit.model.resources import HeaderOperations
from meshkit.routing.match import compile_routes, select
from meshkit.routing.names import AUTO, is_http2
from meshkit.snapshot import types
from meshkit.telemetry.peer import Facts

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext

Header = tuple[bytes, bytes]


class Target:
    """One endpoint of a cluster, with the requests in flight that balance it."""

    __slots__ = (
        *("_ctx", "_http2", "_pools", "accounts", "active", "address", "port", "sni", "weight"),
    )

    def __init__(
        self,
        ctx: WorkerContext,
        endpoint: types.Endpoint,
        accounts: frozenset[str],
        http2: bool = False,
    ) -> None:
        self._ctx = ctx
        self._http2 = http2
        self._pools: dict[str, H1Pool | H2Pool] = {}
        self.address = endpoint.address
        self.port = endpoint.port
        self.sni = endpoint.sni
        self.weight = endpoint.weight
        self.accounts = accounts
        self.active = 0

    def pool(self, identity: str) -> Any:
        """Connections under the caller's own identity; plaintext ones are shared."""
        pool = self._pools.get(identity)
        if pool is None:
            key = identity if self.sni else ""
            kind: type[H1Pool | H2Pool] = H2Pool if self._http2 else H1Pool
            pool = self._ctx.pool(key, self.address, self.port, self.sni, self.accounts, kind)
            self._pools[identity] = pool
        return pool

    def http2_pool(self, identity: str) -> Any:
        """Of an AUTO port, for requests that came as HTTP/2."""
        key = identity if self.sni else ""
        where = self.address, self.port, self.sni, self.accounts
        return self._ctx.pool(key, *where, H2Pool)

    def dialer(self, identity: str) -> TCPDialer:
        """For TCP, whose connections are never pooled."""
        key = identity if self.sni else ""
        where = self.address, self.port, self.sni, self.accounts
        return self._ctx.pool(key, *where, TCPDialer)


class Cluster:
    """Endpoints and how one is picked.  ``connect_timeout`` in seconds.

    ``auto``: nobody declared which HTTP they speak, so it is the client's own version.
    """

    __slots__ = ("auto", "balancer", "connect_timeout", "http2", "name", "targets")

    def __init__(self, ctx: WorkerContext, spec: types.Cluster) -> None:
        accounts = frozenset(spec.accounts)
        self.name = spec.name
        self.connect_timeout = spec.connect_timeout
        self.auto = spec.protocol == AUTO
        self.http2 = is_http2(spec.protocol)
        self.targets = [Target(ctx, e, accounts, self.http2) for e in spec.endpoints]
        self.balancer: Balancer[Target] = make_balancer(spec.balancer, self.targets, ctx.random)


class Operations:
    """Istio header operations on a list of (lower-case name, value)."""

    __slots__ = ("_add", "_drop", "_set")

    def __init__(self, ops: HeaderOperations) -> None:
        self._set = [(k.lower().encode(), v.encode()) for k, v in ops.set]
        self._add = [(k.lower().encode(), v.encode()) for k, v in ops.add]
        self._drop = {k for k, _ in self._set} | {k.lower().encode() for k in ops.remove}

    def apply(self, headers: list[Header]) -> list[Header]:
        """A new list: removed and overwritten ones gone, then set, then added."""
        kept = [h for h in headers if h[0] not in self._drop]
        return kept + self._set + self._add


def operations(*levels: HeaderOperations) -> tuple[Operations, ...]:
    """Route level first, destination level after it; empty levels cost nothing."""
    return tuple(Operations(ops) for ops in levels if ops.set or ops.add or ops.remove)


class Choice:
    """A destination of a route with its cluster and merged header operations."""

    __slots__ = ("cluster", "cluster_name", "request_ops", "response_ops", "weight")

    def __init__(self, route: types.Route, spec: types.Destination, cluster: Cluster | None):
        self.weight = spec.weight
        self.cluster = cluster
        self.cluster_name = spec.cluster
        self.request_ops = operations(route.request_headers, spec.request_headers)
        self.response_ops = operations(route.response_headers, spec.response_headers)


class Action:
    """A route, ready to run.  ``series`` and ``messages`` belong to `meshd.worker.record`."""

    __slots__ = (
        *("choices", "destination", "local", "messages", "name", "pick", "retry", "series"),
        "timeout",
    )

    def __init__(
        self,
        route: types.Route,
        choices: Sequence[Choice],
        destination: types.OutboundHost | None,
        ctx: WorkerContext,
    ) -> None:
        self.name = route.name
        self.timeout = route.timeout
        self.retry = route.retry
        self.choices = choices
        self.destination = destination
        self.series: dict[object, Series] = {}
        self.messages: dict[object, tuple[int, ...]] = {}
        self.local: tuple[Facts, str] | None = None
        """Inbound: the local workload's facts and identity."""
        several = len(choices) > 1
        self.pick = Weighted(choices, [c.weight for c in choices]).pick if several else None


class VirtualHost:
    """Routes by port of one host name, as one scope sees it."""

    def __init__(self, ctx: WorkerContext, spec: types.OutboundHost) -> None:
        self.spec = spec
        self._clusters = {name: Cluster(ctx, c) for name, c in spec.clusters.items()}
        self.tcp = TCPTable(spec, self._clusters)
        self._actions: dict[int, Action] = {}
        self._tables = {port: compile_routes(routes) for port, routes in spec.ports.items()}
        for routes in spec.ports.values():
            for route in routes:
                choices = [
                    Choice(route, d, self._clusters.get(d.cluster)) for d in route.destinations
                ]
                self._actions[id(route)] = Action(route, choices, spec, ctx)

    def ports(self) -> Sequence[int]:
        return list(self._tables)

    def has(self, port: int) -> bool:
        """Whether a port carries HTTP."""
        return bool(self._tables.get(port) or self._tables.get(0))

    def only(self, port: int) -> Action | None:
        """The action of every request to a port, if its first route takes all."""
        table = self._tables.get(port) or self._tables.get(0)
        if table is None or table.always is None:
            return None
        return self._actions[id(table.always)]

    def find(
        self, port: int, method: bytes, path: bytes, authority: bytes, headers: list[Header]
    ) -> Action | None:
        """The action of the first route that matches; None = NR."""
        # A host that is no service (VirtualService only, or a gateway's) has no ports: key 0.
        table = self._tables.get(port) or self._tables.get(0)
        if table is None:
            return None
        route = select(table, method, path, authority, headers)
        return None if route is None else self._actions[id(route)]
