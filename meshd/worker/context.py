"""What every fiber of a worker shares: loop, live snapshot, credentials, pools, counters."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from meshd.worker.admission import Admission
from meshd.worker.credentials import Credentials, ders
from meshd.worker.entry import Caller, InboundEntry
from meshd.worker.listeners import Listeners
from meshd.worker.live import Live
from meshd.worker.log import log
from meshd.worker.logfile import AccessLog
from meshd.worker.overload import Overload
from meshd.worker.record import Recorder
from meshd.worker.routes import Action, Choice, Cluster, VirtualHost
from meshd.worker.runners import Runners
from meshd.worker.upstream import Dialer
from meshd.worker.watch import Watch
from meshkit.http.limits import GATEWAY, MESHD, Limits
from meshkit.identity.judge import Judge
from meshkit.snapshot.types import Cluster as ClusterSpec
from meshkit.snapshot.types import (
    Destination,
    EdgeServer,
    Endpoint,
    HostConfig,
    ListenerSpec,
    OutboundHost,
    RetryPolicy,
    Route,
    Workload,
    WorkloadPort,
)
from meshkit.telemetry.peer import Facts, encode_facts
from meshkit.telemetry.trace import RequestIds, TraceParents

if TYPE_CHECKING:
    from meshd.counters import CounterFile
    from meshd.worker.downstream import Downstream
    from meshd.worker.h2_server import H2Downstream
    from meshd.worker.loop import Fiber, Loop
    from meshd.worker.stream import Stream
    from meshd.worker.tcp import TCPConnection

INBOUND_RETRY = RetryPolicy(attempts=2, retry_on=("reset-before-request",))
"""Istio's inbound default: only where the application provably did nothing."""

SWEEP = 1.0
"""Seconds between looks at all connections: what limits in seconds are precise to."""
REFUSED_LINES = 50
"""Refusals a second that are logged one by one."""

P = TypeVar("P", bound=Dialer)
PoolKey = tuple[str, str, int, str, frozenset[str], type[Dialer]]


class WorkerContext:
    """One worker.  Nothing in it is shared with other threads; there are none."""

    def __init__(self, loop: Loop, counters: CounterFile, seed: int | None = None) -> None:
        self.loop = loop
        self.wall = time.time
        self.random = random.Random(seed)
        self.request_ids = RequestIds(self.random)
        self.trace_parents = TraceParents(self.random)
        self.counters = counters
        self.credentials = Credentials()
        self.judge = Judge({})
        self.live: Live[VirtualHost] = Live(lambda _scope, spec: VirtualHost(self, spec))
        self.listeners = Listeners(self)
        self.log = AccessLog(loop, self._log_lost)
        self.limits = MESHD
        self.edge_limits = GATEWAY
        self.admission = Admission()
        self.overload = Overload(self)
        self.runners = Runners(loop)
        self.watch = Watch(self)
        self.draining = False
        self.tunnels = 0
        """Upgraded connections and streams that are open."""
        self.idle: set[Downstream | H2Downstream] = set()
        """Connections between two requests: a drain ends them at once."""
        self.tcp: set[TCPConnection] = set()
        """TCP connections that are served."""
        self._refused_logged = 0
        self._specs: dict[str, ListenerSpec] = {}
        self._pools: WeakValueDictionary[PoolKey, Dialer] = WeakValueDictionary()
        self._open_pools: set[Dialer] = set()
        self._callers: dict[str, Caller] = {}
        self._inbound: dict[tuple[str, WorkloadPort], tuple[Action, bytes]] = {}
        self._tls: dict[Stream, tuple[bytes, ...]] = {}
        self.recorder = Recorder(self)
        self.bump = self.recorder.bump
        self.record = self.recorder.request
        self.record_refusal = self.recorder.refusal
        loop.call_later(SWEEP, self._sweep)

    # Configuration

    @property
    def config(self) -> HostConfig:
        assert self.live.config is not None, "listeners run only with a configuration"
        return self.live.config

    def configured(self) -> None:
        """A new revision is in force: forget what was derived from the old one."""
        config = self.config
        self._specs = {spec.id: spec for spec in config.listeners}
        self._callers.clear()
        fresh = {(w.id, p) for w in config.workloads for p in w.ports}
        self._inbound = {key: value for key, value in self._inbound.items() if key in fresh}
        self.limits = _limits(MESHD, config.limits)
        self.edge_limits = _limits(GATEWAY, config.limits)
        self.listeners.refresh()
        for connection in list(self.tcp):
            connection.look_again()
        self.watch.look_again()

    def specs(self) -> Iterable[ListenerSpec]:
        return self._specs.values()

    def spec(self, ident: str) -> ListenerSpec | None:
        return self._specs.get(ident)

    def limits_for(self, spec: ListenerSpec) -> Limits:
        return self.edge_limits if spec.kind == "edge" else self.limits

    # Who calls, and what is called

    def caller(self, workload: Workload) -> Caller:
        known = self._callers.get(workload.id)
        if known is None:
            facts = facts_of(workload)
            header = b"x-baremesh-source: " + encode_facts(facts) + b"\r\n"
            known = Caller(workload.identity, workload.namespace, facts, header)
            self._callers[workload.id] = known
        return known

    def edge_caller(self) -> Caller:
        """The gateway itself: its namespace is its account's."""
        known = self._callers.get("")
        if known is None:
            identity = self.config.edge_identity
            parts = identity.split("/")
            namespace, account = parts[-3], parts[-1]
            facts = Facts(workload=account, namespace=namespace, app=account, version="")
            header = b"x-baremesh-source: " + encode_facts(facts) + b"\r\n"
            known = Caller(identity, namespace, facts, header)
            self._callers[""] = known
        return known

    def edge_servers(self, listener: str) -> tuple[EdgeServer, ...]:
        """The servers of the Gateways on one port."""
        return tuple(s for s in self.config.edge if s.listener == listener)

    def inbound(
        self,
        workload: Workload,
        port: WorkloadPort,
        local: str,
        remote: str,
        principal: str,
        sni: str,
    ) -> InboundEntry:
        """The entry to one port of a local application."""
        action, header = self._inbound_parts(workload, port)
        entry = InboundEntry(
            *(self, self.limits, local, remote, action, header if principal else b""),
            *(principal, sni, (workload.id, port.port)),
        )
        if principal:
            cert = f"x-forwarded-client-cert: By={workload.identity};URI={principal}\r\n"
            entry.upstream_extra = cert.encode()
        return entry

    def inbound_port(self, workload: str, port: int) -> tuple[Workload, WorkloadPort] | None:
        """A port of a workload by id and number, as it is now; None: it is gone."""
        for known in self.config.workloads:
            if known.id == workload:
                return next(((known, p) for p in known.ports if p.port == port), None)
        return None

    def inbound_action(self, workload: Workload, port: WorkloadPort) -> Action:
        """What is done with the requests to one port of a local application."""
        return self._inbound_parts(workload, port)[0]

    def _inbound_parts(self, workload: Workload, port: WorkloadPort) -> tuple[Action, bytes]:
        """The action, and the header line with the workload's facts; made once."""
        known = self._inbound.get((workload.id, port))
        if known is None:
            header = b"x-baremesh-destination: " + encode_facts(facts_of(workload)) + b"\r\n"
            known = self._inbound[workload.id, port] = (
                self._new_inbound_action(workload, port),
                header,
            )
        return known

    def _new_inbound_action(self, workload: Workload, port: WorkloadPort) -> Action:
        name = f"inbound|{port.port}||"
        endpoint = Endpoint(port.address, port.target)
        cluster = Cluster(
            self, ClusterSpec(name, "ROUND_ROBIN", (endpoint,), protocol=port.protocol)
        )
        destination = Destination(name, 1)
        route = Route("default", (), (destination,), retry=INBOUND_RETRY)
        host = f"{workload.service}.{workload.namespace}.{self.config.mesh.domain}"
        spec = OutboundHost(host, workload.service, workload.namespace, {}, {})
        action = Action(route, [Choice(route, destination, cluster)], spec, self)
        action.local = facts_of(workload), workload.identity
        return action

    def declared(self, scope: str, host: str, port: int) -> str:
        """What a listener for this service port would accept: HTTP, TCP, TLS or AUTO."""
        table = self.live.scopes.get(scope)
        known = None if table is None else table.find(host)
        if known is None:
            return "TCP"
        if known.tcp.has(port):
            tls = "TLS" if known.tcp.by_name(port) else "TCP"
            return "AUTO" if known.has(port) else tls
        return "HTTP"

    def pool(
        self,
        identity: str,
        address: str,
        port: int,
        sni: str,
        accounts: frozenset[str],
        kind: type[P],
    ) -> P:
        """Pools outlive snapshots: connections are not dropped because a rule changed.

        Whoever routes to a pool holds it; `opened` holds those with connections.
        """
        key = (identity, address, port, sni, accounts, kind)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = kind(self, identity, address, port, sni, accounts)
        return pool  # type: ignore[return-value]  # the key has its kind

    def opened(self, pool: Dialer) -> None:
        """The pool has a connection: look after it until it has none."""
        self._open_pools.add(pool)

    @property
    def connections(self) -> int:
        """Downstream connections open now."""
        return self.admission.total

    def upstream_connections(self) -> int:
        return sum(pool.open_count for pool in self._open_pools)

    def upstream_idle(self) -> int:
        return sum(pool.idle_count for pool in self._open_pools)

    # TLS

    def set_roots(self, domains: Mapping[str, str]) -> None:
        """New roots: connections whose peers they no longer cover are closed now."""
        self.credentials.set_roots(domains)
        self.judge.replace_roots(ders(domains))
        for stream, chain in list(self._tls.items()):
            reason = self.judge.verdict(chain).refusal_at(self.wall())
            if reason:
                self.refused(reason, detail="after the roots changed")
                stream.close()

    def remember_tls(self, stream: Stream, chain: tuple[bytes, ...]) -> None:
        self._tls[stream] = chain

    def forget_tls(self, stream: Stream) -> None:
        self._tls.pop(stream, None)

    # Counters

    def _log_lost(self, lines: int) -> None:
        self.bump("access_log_dropped", lines)

    def limit(self, code: str) -> None:
        """A limit or a rule of the wire was broken: meshd_limit_hits_total{limit}."""
        self.bump("limit_hits", limit=code)

    def refused(self, reason: str, **fields: object) -> None:
        """A peer was refused: counted by reason, and logged with the detail.

        Of a flood, a few lines a second are logged and the rest only counted.
        """
        self.bump("refusals", reason=reason)
        self._refused_logged += 1
        if self._refused_logged <= REFUSED_LINES:
            log("warning", "refused", reason=reason, **fields)

    def fiber_failed(self, fiber: Fiber | None, error: BaseException) -> None:
        """The loop's `on_error`: a mistake of ours ended one fiber, and only that."""
        self.bump("fiber_errors")
        log("error", "fiber_failed", fiber=repr(fiber), error=repr(error))

    # Life

    def drain(self, seconds: float) -> None:
        """Accept no more; end connections between requests; stop after `seconds`."""
        if self.draining:
            return
        self.draining = True
        log("info", "draining", seconds=seconds, connections=self.connections)
        self.listeners.refresh()
        for down in list(self.idle):
            down.leave()
        self._watch_drain(self.loop.now + seconds)

    def _watch_drain(self, deadline: float) -> None:
        if not self.connections or self.loop.now >= deadline:
            log("info", "drained", left=self.connections)
            self.loop.stop()
            return
        self.loop.call_later(0.05, self._watch_drain, deadline)

    def _sweep(self) -> None:
        now = self.loop.now
        for pool in list(self._open_pools):
            pool.sweep(now)
            if not pool.open_count:
                self._open_pools.discard(pool)
        self.admission.sweep(now, self.edge_limits)
        self.overload.sweep()
        self.runners.sweep()
        self.watch.sweep(now)
        self._refused_logged = max(0, self._refused_logged - REFUSED_LINES)
        if self._refused_logged:
            log("warning", "refusals_not_logged", count=self._refused_logged)
            self._refused_logged = 0
        self.recorder.gauges()
        self.loop.call_later(SWEEP, self._sweep)


def _limits(base: Limits, overrides: Mapping[str, int]) -> Limits:
    return base.override(overrides) if overrides else base


def facts_of(workload: Workload) -> Facts:
    """What telemetry says of a local workload; its workload name is service-instance."""
    version = workload.labels.get("version", "")
    return Facts(
        workload=f"{workload.service}-{workload.instance}",
        namespace=workload.namespace,
        app=workload.labels.get("app", workload.service),
        version=version,
    )
