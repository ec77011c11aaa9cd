"""What the agent says about itself: to the policy server, to operators, to probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshd.agent.context import Agent
from meshd.agent.pool import WorkerState
from meshkit import __version__


def report(agent: Agent) -> dict[str, Any]:
    """The body of ``POST /v1/report``.

    ``revision`` is the policy revision that every worker runs, so that whoever
    waits for a revision waits for traffic and not for a file.  A refusal names
    the revision that was refused.
    """
    reason = refusal(agent)
    refused = agent.policy.refusal and agent.policy.received_revision
    return {
        "revision": refused or agent.compiled.live_revision,
        "accepted": not reason,
        "reason": reason,
        "version": __version__,
        "workers": [
            {"index": w.index, "pid": w.pid, "revision": w.revision} for w in agent.pool.states()
        ],
        "certificates": _certificates(agent),
        "discovery": _discovery(agent),
        "services": [_service(s) for s in agent.services.services],
        "missing": missing(agent, ()),
    }


def refusal(agent: Agent) -> str:
    """Why what the server sent does not run here; "" when it does."""
    if agent.policy.refusal:
        return agent.policy.refusal
    if agent.compiled.fault:
        return agent.compiled.fault
    for worker in agent.pool.states():
        for why in worker.refused.values():
            return f"worker {worker.index}: {why}"
    return ""


def _certificates(agent: Agent) -> list[dict[str, Any]]:
    return [
        {"identity": i.spiffe, "notAfter": i.life.expires, "serial": i.serial}
        for i in agent.usable().values()
    ]


def _discovery(agent: Agent) -> dict[str, Any]:
    view = agent.view()
    return {
        "kind": agent.config.discovery.kind,
        "connected": view.connected,
        "error": view.error,
        "held": [{"service": str(h.service), "reason": h.reason} for h in view.held],
        "instances": sum(map(len, view.instances.values())),
    }


def _service(service: Any) -> dict[str, Any]:
    return {"service": f"{service.namespace}/{service.name}", "instance": service.instance}


def status(agent: Agent) -> dict[str, Any]:
    """``GET /status`` on the admin socket: the report and what only the host knows."""
    return {
        "host": agent.config.host,
        "role": agent.config.role,
        "address": agent.config.address,
        **report(agent),
        "snapshot": agent.compiled.snapshot.revision if agent.compiled.snapshot else "",
        "controlPlane": {"connected": agent.link.connected, "error": agent.link.error},
        "workers": [_worker(w) for w in agent.pool.states()],
        "listeners": {
            "open": agent.pool.sockets.ids(),
            "faults": dict(agent.pool.sockets.faults),
        },
        "admitted": list(agent.admission.admitted),
        "refused": [
            {"service": name, "reason": reason, "remedy": remedy}
            for name, reason, remedy in agent.admission.refused
        ],
        "warnings": list(agent.compiled.warnings),
        "reload": agent.reload_fault,
    }


def _worker(worker: WorkerState) -> dict[str, Any]:
    return {
        "index": worker.index,
        "phase": worker.phase,
        "pid": worker.pid,
        "revision": worker.revision,
        "version": worker.version,
        "connections": worker.connections,
        "restarts": worker.restarts,
    }


def missing(agent: Agent, silent: Sequence[int]) -> list[str]:
    """What stands between this host and ready; ``silent`` workers answered no ping."""
    found: list[str] = []
    if agent.member is None:
        found.append(f"not joined to the mesh: {agent.link.error}")
    expired: Mapping[str, str] = agent.roster.missing(agent.wall())
    found += [f"identity {name}: {why}" for name, why in expired.items()]
    if agent.compiled.snapshot is None:
        found.append("no snapshot yet")
    elif not agent.compiled.informed:
        found.append(f"where services are is not known yet: {_unknown(agent)}")
    found += _missing_workers(agent.pool.states(), agent)
    found += [f"worker {index}: no answer" for index in silent]
    found += [f"listener {i}: {why}" for i, why in agent.pool.sockets.faults.items()]
    found += [f"certificate {name}: {why}" for name, why in agent.edge_faults.items()]
    return found


def _unknown(agent: Agent) -> str:
    if not agent.policy.epoch:
        return f"the policy server has not answered ({agent.link.error or 'connected'})"
    return agent.view().error or "the snapshot is being made"


def _missing_workers(workers: Sequence[WorkerState], agent: Agent) -> list[str]:
    wanted = agent.compiled.snapshot.revision if agent.compiled.snapshot else ""
    found = []
    for worker in workers:
        if worker.phase != "ready":
            found.append(f"worker {worker.index}: {worker.phase}")
        elif worker.revision != wanted:
            found.append(f"worker {worker.index}: runs {worker.revision}, not yet {wanted}")
    return found
