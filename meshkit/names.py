"""Names of services in the mesh: what a short name means, and back.

The mesh domain (``svc.cluster.local`` by default) is the tail of every service
host: ``<name>.<namespace>.<mesh domain>``.  Istio writes the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class ServiceName(NamedTuple):
    """A service of the mesh, as discovery and the policy server key it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """What every member of one mesh must agree on; comes from the policy server."""

    trust_domain: str = "cluster.local"
    domain: str = "svc.cluster.local"
    root_namespace: str = "istio-system"


def host_of(service: ServiceName, domain: str) -> str:
    """``default/reviews`` → ``reviews.default.svc.cluster.local``."""
    return f"{service.name}.{service.namespace}.{domain}"


def service_of(host: str, domain: str) -> ServiceName | None:
    """The inverse of `host_of`; None for a host outside the mesh domain."""
    head, dot, tail = host.partition("." + domain)
    parts = head.split(".")
    if not dot or tail or len(parts) != 2 or not all(parts):
        return None
    return ServiceName(parts[1], parts[0])


def qualify(host: str, namespace: str, domain: str) -> str:
    """Expand a host as Istio does: only a name without a dot is completed.

    ⚠ The namespace is that of the *rule*, not of the service
    (VirtualService.hosts, DestinationRule.host).
    """
    if "." in host or host == "*" or ":" in host:
        return host
    return f"{host}.{namespace}.{domain}"
