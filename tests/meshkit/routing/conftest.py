"""A small mesh to compile: builders for resources, and a look into the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from meshkit.model.problems import NOWHERE
from meshkit.model.resources import (
    DestinationRule,
    HTTPMatch,
    HTTPRoute,
    Meta,
    Resource,
    RouteDestination,
    StringMatch,
    Subset,
    TrafficPolicy,
    VirtualService,
)
from meshkit.names import ServiceName
from meshkit.routing.compile import Compiler
from meshkit.routing.inputs import GatewayParts, HostParts, Inputs, NamedPort, Naming
from meshkit.snapshot.codec import decode_host, decode_outbound
from meshkit.snapshot.types import Cluster, HostConfig, OutboundHost, Route, Snapshot

DOMAIN = "svc.cluster.local"


@dataclass(frozen=True)
class Instance:
    instance: str = "main"
    address: str = "10.0.0.1"
    port: int = 9080
    protocol: str = "HTTP"
    mesh_port: int | None = 15443
    port_name: str = "http"
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1


@dataclass
class Look:
    """A compiled snapshot, decoded on demand."""

    snapshot: Snapshot
    problems: list[str]

    def host(self, host: str, scope: str = "default") -> OutboundHost:
        return decode_outbound(self.snapshot.blobs[self.snapshot.scopes[scope][host]])

    def routes(self, host: str, port: int = 9080, scope: str = "default") -> tuple[Route, ...]:
        return self.host(host, scope).ports[port]

    def cluster(self, host: str, scope: str = "default", *, name: str = "") -> Cluster:
        clusters = self.host(host, scope).clusters
        return clusters[name] if name else next(iter(clusters.values()))

    @property
    def config(self) -> HostConfig:
        return decode_host(self.snapshot.blobs[self.snapshot.host])


class Make:
    """Builders with the fields that a test is about; the rest ordinary."""

    instance = Instance
    port = NamedPort

    @staticmethod
    def meta(kind: str, name: str, namespace: str = "default", created: int = 1) -> Meta:
        return Meta(kind, namespace, name, {}, {}, NOWHERE, {}, created=created)

    @staticmethod
    def prefix(value: str, **more: Any) -> HTTPMatch:
        return HTTPMatch(uri=StringMatch("prefix", value), **more)

    @staticmethod
    def rule(*to: str | RouteDestination, **more: Any) -> HTTPRoute:
        """``reviews`` or ``reviews:v2`` (a subset) as destinations."""
        targets = []
        for item in to:
            if isinstance(item, str):
                host, _, subset = item.partition(":")
                item = RouteDestination(host, subset)
            targets.append(item)
        return HTTPRoute(**{"name": "", "match": (), "route": tuple(targets), **more})

    def virtual(
        self,
        name: str,
        *http: HTTPRoute,
        hosts: tuple[str, ...] = (),
        namespace: str = "default",
        created: int = 1,
        gateways: tuple[str, ...] = ("mesh",),
    ) -> VirtualService:
        meta = self.meta("VirtualService", name, namespace, created)
        return VirtualService(meta, hosts or (name,), gateways, http)

    def destination(
        self,
        name: str,
        *subsets: Subset,
        host: str = "",
        namespace: str = "default",
        created: int = 1,
        policy: TrafficPolicy | None = None,
    ) -> DestinationRule:
        meta = self.meta("DestinationRule", name, namespace, created)
        return DestinationRule(meta, host or name, policy or TrafficPolicy(), subsets)

    @staticmethod
    def subset(name: str, policy: TrafficPolicy | None = None, **labels: str) -> Subset:
        return Subset(name, labels or {"version": name}, policy or TrafficPolicy())

    @staticmethod
    def naming(name: str, *ports: int) -> tuple[ServiceName, Naming]:
        namespace, _, short = name.partition("/")
        account = f"spiffe://cluster.local/ns/{namespace}/sa/{short}"
        named = tuple(NamedPort(f"p{port}", port) for port in ports or (9080,))
        return ServiceName(namespace, short), Naming((account,), named)


@pytest.fixture
def make() -> Make:
    return Make()


Compile = Callable[..., Look]


@pytest.fixture
def mesh(make: Make) -> Compile:
    """Compile resources over reviews and ratings (v1, v2), with other inputs on request."""
    versions = (
        Instance("v1", "10.0.0.1", labels={"version": "v1"}),
        Instance("v2", "10.0.0.2", labels={"version": "v2"}),
    )
    names = dict((make.naming("default/reviews"), make.naming("default/ratings")))
    found = dict.fromkeys(names, versions)

    def run(*resources: Resource, compiler: Compiler | None = None, **inputs: Any) -> Look:
        given: dict[str, Any] = {
            "host": HostParts("vm1", "10.0.0.9", 15443),
            "naming": names,
            "instances": found,
            "scopes": frozenset(("default",)),
            **inputs,
        }
        compiler = compiler or Compiler()
        snapshot = compiler.compile(Inputs(resources=resources, **given))
        return Look(snapshot, [problem.code for problem in compiler.problems])

    return run


@pytest.fixture
def gateway() -> HostParts:
    parts = GatewayParts({"istio": "ingressgateway"}, "istio-system", "mesh-gateway")
    return HostParts("edge1", "10.0.0.8", gateway=parts)
