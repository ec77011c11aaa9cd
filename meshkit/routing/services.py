"""What a host name stands for: ports, backends, and who may answer for it.

A service is *secure* when there is an expectation of who serves it, and then it
is reached by mTLS only: a backend that speaks no mTLS is left out, and with no
admitted account nobody is believed.  The expectation comes from policy (naming,
ServiceEntry), never from discovery, which could otherwise widen it:

======================== ======== =================================================
known from               secure   accounts
======================== ======== =================================================
naming                   yes      those of the naming
discovery, mesh backend  yes      none: refused, UF
discovery, plain only    no       –
ServiceEntry, internal   if any endpoint has a serviceAccount; those accounts
ServiceEntry, external   no       –
======================== ======== =================================================

Where several know one host, naming is believed before a ServiceEntry, and that
before discovery alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from meshkit.identity.spiffe import account_id
from meshkit.model.protocols import normal
from meshkit.model.resources import Port, ServiceEntry, WorkloadEntry, WorkloadEntrySpec
from meshkit.names import MeshSettings, ServiceName, host_of, service_of
from meshkit.routing.inputs import InstanceLike, NamedPort, NamingLike
from meshkit.snapshot.sni import ANY_INSTANCE


@dataclass(frozen=True, slots=True)
class Backend:
    """An address that serves one port.  ``mesh_port`` speaks mTLS; None: it does not."""

    address: str
    port: int
    mesh_port: int | None = None
    instance: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Service:
    """``name`` keys its server names; ``label`` is its name in the telemetry."""

    host: str
    name: ServiceName
    label: str
    ports: tuple[NamedPort, ...]
    backends: Mapping[int, tuple[Backend, ...]]
    secure: bool
    accounts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """IPs and networks that stand for it beside its backends' (``*``: any; a ServiceEntry's)."""

    def port(self, number: int) -> NamedPort | None:
        return next((port for port in self.ports if port.port == number), None)


def from_discovery(
    name: ServiceName,
    naming: NamingLike | None,
    instances: Sequence[InstanceLike],
    mesh: MeshSettings,
) -> Service:
    """A service of the mesh, or a plain one that discovery alone knows."""
    named = naming.ports if naming is not None else ()
    ports = [NamedPort(p.name, p.port, normal(p.protocol)) for p in named]
    found = [NamedPort(i.port_name, i.port, normal(i.protocol)) for i in instances]
    return Service(
        host=host_of(name, mesh.domain),
        name=name,
        label=name.name,
        ports=_distinct(ports or found),
        backends=_by_port(instances),
        secure=naming is not None or any(i.mesh_port is not None for i in instances),
        accounts=tuple(sorted(set(naming.accounts))) if naming is not None else (),
    )


def _distinct(ports: Iterable[NamedPort]) -> tuple[NamedPort, ...]:
    """In order of number, the first of each; a number has one name and protocol."""
    first: dict[int, NamedPort] = {}
    for port in ports:
        first.setdefault(port.port, port)
    return tuple(first[number] for number in sorted(first))


def _by_port(instances: Sequence[InstanceLike]) -> Mapping[int, tuple[Backend, ...]]:
    backends: dict[int, list[Backend]] = {}
    for item in instances:
        backends.setdefault(item.port, []).append(
            Backend(
                item.address, item.port, item.mesh_port, item.instance, item.labels, item.weight
            )
        )
    return {port: _ordered(group) for port, group in backends.items()}


def _ordered(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """One order whatever discovery's, so that equal sets give equal snapshots."""
    return tuple(sorted(backends, key=lambda b: (b.address, b.port, b.mesh_port or 0, b.instance)))


# -- ServiceEntry -------------------------------------------------------------


def from_entry(
    entry: ServiceEntry, workloads: Sequence[WorkloadEntry], mesh: MeshSettings
) -> Iterator[Service]:
    """One service a host of the entry.  ``workloads``: all WorkloadEntries there are."""
    endpoints = _endpoints(entry, workloads)
    internal = entry.location == "MESH_INTERNAL"
    accounts = {e.service_account for e in endpoints if e.service_account and internal}
    ports = tuple(NamedPort(p.name, p.number, p.protocol) for p in entry.ports)
    backends = {p.number: _entry_backends(endpoints, p, bool(accounts)) for p in entry.ports}
    namespace = entry.meta.namespace
    ids = sorted(account_id(mesh.trust_domain, namespace, account) for account in accounts)
    for host in entry.hosts:
        name = service_of(host, mesh.domain) or ServiceName(namespace, host)
        yield Service(
            *(host, name, host, ports, backends, bool(accounts), tuple(ids)),
            addresses=entry.addresses or ("*",),
        )


def _endpoints(
    entry: ServiceEntry, workloads: Sequence[WorkloadEntry]
) -> tuple[WorkloadEntrySpec, ...]:
    if entry.workload_selector is None:
        return entry.endpoints
    wanted = entry.workload_selector.items()
    return tuple(
        workload.spec
        for workload in workloads
        if workload.meta.namespace == entry.meta.namespace
        and wanted <= {**workload.meta.labels, **workload.spec.labels}.items()
    )


def _entry_backends(
    endpoints: Iterable[WorkloadEntrySpec], port: Port, secure: bool
) -> tuple[Backend, ...]:
    """WorkloadEntry.ports beats targetPort, which beats the port's own number."""
    backends = []
    for endpoint in endpoints:
        number = endpoint.ports.get(port.name) or port.target_port or port.number
        mesh_port = number if secure and endpoint.service_account else None
        backends.append(
            Backend(
                endpoint.address, number, mesh_port, ANY_INSTANCE, endpoint.labels, endpoint.weight
            )
        )
    return _ordered(backends)
