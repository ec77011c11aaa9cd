"""``/metrics``: the workers' counters, summed over workers, beside the agent's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector

from meshd.agent.context import Agent
from meshd.agent.reports import missing
from meshd.counters import Labels, merge
from meshd.exposition import families
from meshkit import __version__

Cells = dict[tuple[str, Labels], list[int]]


class HostCollector(Collector):
    """Reads the counter files at each scrape; they survive workers and agent."""

    def __init__(self, agent: Agent):
        self._agent = agent

    def collect(self) -> Iterator[Family]:
        runtime = self._agent.config.runtime
        cells: Cells = merge(_counter_files(runtime))
        for name, labels, value in agent_series(self._agent):
            cells[name, tuple(labels)] = [value]
        yield from families(cells)


def _counter_files(runtime: Path) -> list[Path]:
    return [p for p in runtime.glob("counters.*") if p.suffix[1:].isdigit()]


def agent_series(agent: Agent) -> Iterable[tuple[str, Labels, int]]:
    """(name, labels, value) of what the agent itself knows."""
    states = agent.pool.states()
    view = agent.view()
    snapshot = agent.compiled.snapshot
    yield "meshd_build_info", (("version", __version__),), 1
    yield "meshd_ready", (), int(not missing(agent, ()))
    yield "meshd_workers", (), sum(w.phase == "ready" for w in states)
    yield "meshd_worker_starts_total", (), agent.pool.starts
    for how, count in agent.pool.exits.items():
        yield "meshd_worker_exits_total", (("how", how),), count
    yield "meshd_policy_connected", (), int(agent.link.connected)
    yield "meshd_policy_revision", (), agent.compiled.live_revision
    if snapshot is not None:
        yield "meshd_snapshot_info", (("revision", snapshot.revision),), 1
    for identity in agent.usable().values():
        labels = (("identity", identity.spiffe),)
        yield "meshd_certificate_expiry_seconds", labels, int(identity.life.expires)
    yield "meshd_certificate_renewals_total", (), agent.renewals
    yield "meshd_certificate_renewal_failures_total", (), agent.renewal_failures
    kind = (("kind", agent.config.discovery.kind),)
    yield "meshd_discovery_connected", kind, int(view.connected)
    yield "meshd_discovery_instances", (), sum(map(len, view.instances.values()))
    yield "meshd_discovery_held", (), len(view.held)
    refused = {name for name, _, _ in agent.admission.refused}
    yield "meshd_local_services", (("state", "declared"),), len(agent.services.services)
    yield "meshd_local_services", (("state", "refused"),), len(refused)


def render(agent: Agent) -> bytes:
    """The text exposition.  Reads files: call it in a thread."""
    registry = CollectorRegistry()
    registry.register(HostCollector(agent))
    return generate_latest(registry)
