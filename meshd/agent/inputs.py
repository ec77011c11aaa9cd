"""From the agent's state to the compiler's inputs: pure choices.

After a restart discovery needs a moment to answer for every service, and it may
be away.  What it said before, kept on disk, stands in for a service until it
answers, and for at most `holdEmpty` after it is connected again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshd.agent.context import Instances
from meshd.agent.policy import PolicyState, service_name
from meshd.config import AgentConfig
from meshd.discovery.base import Instance, View
from meshd.services import HostServices
from meshkit.names import ServiceName
from meshkit.routing.inputs import GatewayParts, HostParts, Inputs


def effective_instances(
    view: View, remembered: Instances, connected_for: float | None, hold: float
) -> Instances:
    """Live answers first; the remembered ones where discovery has not spoken.

    ``connected_for``: seconds since discovery first answered, None if it never did.
    """
    if not remembered or (connected_for is not None and connected_for >= hold):
        return view.instances
    return {**remembered, **view.instances}


def is_informed(
    view: View, remembered: Instances, told_policy: bool, waited: float, hold: float
) -> bool:
    """Whether a snapshot knows where services are: a host is not ready before.

    Discovery has answered, or what it said before the restart stands in.  After
    ``hold`` seconds (``waited`` since the start) a host serves with what it has:
    no more is believed to come.
    """
    return waited >= hold or (told_policy and (view.connected or bool(remembered)))


def make_inputs(
    config: AgentConfig, services: HostServices, policy: PolicyState, instances: Instances
) -> Inputs:
    """Everything that the snapshot of this host depends on."""
    return Inputs(
        host=_host(config, services),
        mesh=policy.mesh,
        resources=policy.resources,
        naming=policy.naming,
        instances=instances,
    )


def _host(config: AgentConfig, services: HostServices) -> HostParts:
    if config.role == "gateway":
        namespace, _, account = config.account.partition("/")
        gateway = GatewayParts(config.labels, namespace, account, config.bind)
        return HostParts(config.host, config.address, limits=config.limits, gateway=gateway)
    return HostParts(
        config.host,
        config.address,
        mesh_port=config.mesh_port,
        proxy=(config.proxy.host, config.proxy.port) if config.proxy else None,
        services=services.services,
        uids=services.uids,
        limits=config.limits,
    )


# -- the copy on disk ---------------------------------------------------------


def dump_instances(instances: Instances) -> dict[str, Any]:
    """JSON of what discovery said, for the disk."""
    services = {str(name): [_row(i) for i in found] for name, found in instances.items()}
    return {"version": 1, "services": services}


def _row(instance: Instance) -> dict[str, Any]:
    return {
        "instance": instance.instance,
        "host": instance.host,
        "address": instance.address,
        "port": instance.port,
        "protocol": instance.protocol,
        "meshPort": instance.mesh_port,
        "portName": instance.port_name,
        "labels": dict(instance.labels),
        "weight": instance.weight,
    }


def restore_instances(saved: Any) -> Instances:
    """What `dump_instances` wrote; nothing where it cannot be used."""
    if not isinstance(saved, dict) or saved.get("version") != 1:
        return {}
    try:
        return {
            service_name(key): tuple(_instances(service_name(key), rows))
            for key, rows in saved["services"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _instances(service: ServiceName, rows: Iterable[Mapping[str, Any]]) -> Iterable[Instance]:
    for row in rows:
        yield Instance(
            *(service, row["instance"], row["host"], row["address"], row["port"]),
            *(row["protocol"], row["meshPort"], row["portName"], row["labels"], row["weight"]),
        )
