"""What this host itself serves, as instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshd.discovery.base import Instance
from meshkit.model.resources import LocalService
from meshkit.names import ServiceName


@dataclass(frozen=True, slots=True)
class HostAddress:
    """This host as others reach it: its name, address, and meshd's mTLS port."""

    name: str
    address: str
    mesh_port: int


def instance_name(service: LocalService) -> str:
    """``<ns>/<name>/<instance>``: how meshd's verdict on it is keyed."""
    return f"{service.namespace}/{service.name}/{service.instance}"


def report_key(instance: Instance) -> str:
    """`instance_name` of the local service that the instance is of."""
    return f"{instance.service}/{instance.instance}"


def local_instances(services: Iterable[LocalService], host: HostAddress) -> Iterator[Instance]:
    """One instance for each port of each service."""
    for service in services:
        for port in service.ports:
            yield Instance(
                service=ServiceName(service.namespace, service.name),
                instance=service.instance,
                host=host.name,
                address=host.address,
                port=port.port,
                protocol=port.protocol,
                mesh_port=host.mesh_port,
                port_name=port.name,
                labels=dict(service.labels),
            )
