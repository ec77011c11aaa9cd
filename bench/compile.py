"""How long a compilation takes at size, and how long a change: prints one row each.

    python -m bench.compile [services] [rules] [endpoints]

The defaults, 2,000 services with 10 rules each and 20,000 endpoints, are the size
that the design measures everything at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter

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
from meshkit.routing.inputs import HostParts, Inputs, NamedPort, Naming
from meshkit.snapshot.codec import decode_outbound
from meshkit.snapshot.diff import difference
from meshkit.snapshot.types import Snapshot

VERSIONS = ("v1", "v2")


@dataclass(frozen=True, slots=True)
class Instance:
    instance: str
    address: str
    port: int = 9080
    protocol: str = "HTTP"
    mesh_port: int | None = 15443
    port_name: str = "http"
    labels: dict[str, str] = field(default_factory=dict)
    weight: int = 1


def meta(kind: str, name: str) -> Meta:
    return Meta(kind, "default", name, {}, {}, NOWHERE, {}, created=1)


def virtual_service(name: str, rules: int) -> VirtualService:
    """``rules`` − 1 rules with a prefix and a header to v2, then a split of both."""
    v1, v2 = (RouteDestination(name, version, weight=50) for version in VERSIONS)
    matched = tuple(
        HTTPRoute(
            f"rule-{index}",
            (
                HTTPMatch(
                    uri=StringMatch("prefix", f"/api/v{index}"),
                    headers=(("end-user", StringMatch("exact", f"user-{index}")),),
                ),
            ),
            (v2,),
            timeout=2.0,
        )
        for index in range(rules - 1)
    )
    last = HTTPRoute("rest", (), (v1, v2))
    return VirtualService(meta("VirtualService", name), (name,), ("mesh",), (*matched, last))


def destination_rule(name: str) -> DestinationRule:
    subsets = tuple(Subset(version, {"version": version}) for version in VERSIONS)
    return DestinationRule(meta("DestinationRule", name), name, TrafficPolicy(), subsets)


def instances(service: int, count: int) -> tuple[Instance, ...]:
    return tuple(
        Instance(
            f"i{index}",
            f"10.{service // 250}.{service % 250}.{index + 1}",
            labels={"app": f"svc-{service}", "version": VERSIONS[index % 2]},
        )
        for index in range(count)
    )


def mesh(services: int, rules: int, endpoints: int) -> Inputs:
    names = [ServiceName("default", f"svc-{index}") for index in range(services)]
    resources: list[Resource] = []
    for name in names:
        resources += [virtual_service(name.name, rules), destination_rule(name.name)]
    account = "spiffe://cluster.local/ns/default/sa/{}".format
    return Inputs(
        HostParts("vm1", "10.0.0.1", 15443),
        resources=tuple(resources),
        naming={n: Naming((account(n.name),), (NamedPort("http", 9080),)) for n in names},
        instances={n: instances(i, endpoints // services) for i, n in enumerate(names)},
        scopes=frozenset(("default",)),
    )


def timed(label: str, work: Callable[[], Snapshot], before: Snapshot | None) -> Snapshot:
    start = perf_counter()
    snapshot = work()
    spent = perf_counter() - start
    update = difference(before, snapshot)
    sent = sum(map(len, update.put.values()))
    print(f"{label:44} {spent * 1000:9.2f} ms   {sent:6} hosts sent   {snapshot.revision[:8]}")
    return snapshot


def main(services: int = 2000, rules: int = 10, endpoints: int = 20_000) -> None:
    print(f"{services} services x {rules} rules, {endpoints} endpoints")
    inputs, compiler = mesh(services, rules, endpoints), Compiler()
    full = timed("everything, from nothing", lambda: compiler.compile(inputs), None)
    same = timed("nothing changed", lambda: compiler.compile(inputs), full)
    first = next(iter(inputs.instances))
    fewer = {**inputs.instances, first: inputs.instances[first][1:]}
    moved = replace(inputs, instances=fewer)
    less = timed("one endpoint left", lambda: compiler.compile(moved), same)
    rule = replace(virtual_service("svc-1", rules), http=())
    others = tuple(r for r in inputs.resources if r.meta.key != rule.meta.key)
    edited = replace(moved, resources=(*others, rule))
    last = timed("one VirtualService edited", lambda: compiler.compile(edited), less)
    size = sum(map(len, last.blobs.values()))
    print(f"{len(last.blobs)} blobs, {size / 1e6:.1f} MB, {size / len(last.blobs):.0f} B each")
    blob = full.blobs[next(iter(full.scopes["default"].values()))]
    spent = []
    for _ in range(300):
        start = perf_counter()
        decode_outbound(blob)
        spent.append(perf_counter() - start)
    print(f"decoding one host of {len(blob)} bytes: {min(spent) * 1e6:.0f} us")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
