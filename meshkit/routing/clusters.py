"""Clusters: the endpoints of one port and subset, and how they are reached.

A cluster is mTLS or plaintext as a whole.  mTLS wherever someone is expected to
serve (`Service.secure`), and then an endpoint that speaks none is left out rather
than reached in plaintext; only a DestinationRule's DISABLE opens that door.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshkit.model.problems import NOWHERE, Problem, Severity
from meshkit.routing.rules import Rule
from meshkit.routing.services import Backend, Service
from meshkit.snapshot.sni import mesh_sni
from meshkit.snapshot.types import Cluster, Endpoint


def cluster_name(host: str, port: int, subset: str) -> str:
    """Istio's name of a cluster."""
    return f"outbound|{port}|{subset}|{host}"


def make_cluster(
    name: str, service: Service, port: int, subset: str, rule: Rule, domain: str
) -> tuple[Cluster, list[Problem]]:
    """The cluster of a port that ``service`` has and a subset that ``rule`` has ("" = all)."""
    mutual = uses_mtls(service, rule, subset)
    named = service.port(port)
    problems: list[Problem] = []
    labels = rule.subsets[subset].labels if subset else {}
    backends = [
        backend
        for backend in service.backends.get(port, ())
        if labels.items() <= backend.labels.items()
    ]
    endpoints = _mutual(service, port, backends, domain, problems) if mutual else _plain(backends)
    cluster = Cluster(
        name=name,
        balancer=rule.balancer(subset),
        endpoints=tuple(endpoints),
        accounts=service.accounts if mutual else (),
        protocol=named.protocol if named is not None else "HTTP",
    )
    return cluster, problems


def uses_mtls(service: Service, rule: Rule, subset: str) -> bool:
    """mTLS where someone is expected to serve, unless a DestinationRule says DISABLE."""
    mode = rule.tls(subset)
    return mode == "ISTIO_MUTUAL" or (mode is None and service.secure)


def _plain(backends: list[Backend]) -> Iterator[Endpoint]:
    return (_endpoint(backend, backend.port, "") for backend in backends)


def _mutual(
    service: Service, port: int, backends: list[Backend], domain: str, problems: list[Problem]
) -> Iterator[Endpoint]:
    for backend in backends:
        if backend.mesh_port is None:
            continue
        try:
            sni = mesh_sni(service.name, port, backend.instance, domain)
        except ValueError as error:
            problems.append(_unreachable(service, error))
            continue
        yield _endpoint(backend, backend.mesh_port, sni)


def _endpoint(backend: Backend, port: int, sni: str) -> Endpoint:
    return Endpoint(backend.address, port, sni, backend.weight, backend.instance, backend.labels)


def _unreachable(service: Service, error: ValueError) -> Problem:
    return Problem(
        NOWHERE,
        "",
        f"an instance of {service.host} is left out: {error}",
        "use shorter names",
        "unreachable",
        Severity.WARNING,
    )
