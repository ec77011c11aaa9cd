"""The compiler as a whole: what it reuses, and that order never shows."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshkit.model.resources import (
    Gateway,
    PeerAuthentication,
    Port,
    Server,
    ServiceEntry,
    TrafficPolicy,
    WorkloadEntrySpec,
)
from meshkit.names import MeshSettings, ServiceName
from meshkit.routing.compile import Compiler
from meshkit.snapshot.codec import content_hash
from meshkit.snapshot.diff import difference

REVIEWS = "reviews.default.svc.cluster.local"
RATINGS = "ratings.default.svc.cluster.local"


def resources(make: Any) -> list[Any]:
    entry = ServiceEntry(
        make.meta("ServiceEntry", "db"),
        ("db.example.com",),
        (Port(80, "HTTP", "http"),),
        endpoints=(WorkloadEntrySpec("192.0.2.1"), WorkloadEntrySpec("192.0.2.2")),
    )
    servers = (Server(Port(80, "HTTP", "web"), ("*",)),)
    edge = ("default/edge", "mesh")
    return [
        make.virtual("reviews", make.rule("reviews:v1", "ratings"), gateways=edge),
        make.virtual("reviews-2", make.rule("ratings"), hosts=("reviews",), gateways=edge),
        make.virtual("wild", make.rule("db.example.com"), hosts=("*.example.com",)),
        make.destination("reviews", make.subset("v1")),
        make.destination("more", make.subset("v2"), host="reviews"),
        make.destination("root", host="*.cluster.local", namespace="istio-system"),
        entry,
        Gateway(make.meta("Gateway", "edge"), {}, servers),
        PeerAuthentication(make.meta("PeerAuthentication", "default"), None, "STRICT"),
    ]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_order_of_independent_inputs_never_shows(
    make: Any, mesh: Any, gateway: Any, seed: int
) -> None:
    random = Random(seed)
    names = [make.naming(f"default/{name}") for name in ("reviews", "ratings", "details")]
    found = [make.instance(f"i{n}", f"10.0.0.{n}") for n in range(4)]

    def look(shuffled: bool) -> Any:
        ours, named, instances = resources(make), list(names), list(found)
        if shuffled:
            for each in (ours, named, instances):
                random.shuffle(each)
        members = {name: tuple(instances) for name, _ in named}
        return mesh(*ours, naming=dict(named), instances=members, host=gateway)

    one, two = look(False), look(True)
    assert one.snapshot.revision == two.snapshot.revision
    assert one.snapshot.scopes == two.snapshot.scopes
    assert sorted(one.problems) == sorted(two.problems)


def test_every_blob_is_named_by_its_content(make: Any, mesh: Any, gateway: Any) -> None:
    snapshot = mesh(*resources(make), host=gateway).snapshot
    named = {h for hosts in snapshot.scopes.values() for h in hosts.values()} | {snapshot.host}
    assert named == set(snapshot.blobs)
    assert all(content_hash(data) == name for name, data in snapshot.blobs.items())


def steps(make: Any) -> list[tuple[list[Any], dict[str, Any]]]:
    """A history of inputs in which each step changes one thing."""
    base = resources(make)
    moved = {ServiceName("default", "reviews"): (make.instance("v9", "10.9.9.9"),)}
    disabled = make.destination("reviews", policy=TrafficPolicy(tls="DISABLE"))
    unnamed = dict([make.naming("default/ratings")])
    return [
        (base, {}),
        (base[1:], {}),
        ([disabled, *base[1:3], *base[4:]], {}),
        (base, {"instances": moved}),
        (base, {"naming": unnamed}),
        (base, {"scopes": frozenset(("default", "other"))}),
        ([replace(base[0], http=()), *base[1:]], {}),
        ([r for r in base if r.meta.kind != "Gateway"], {}),
        (base, {"mesh": MeshSettings("other.td", "mesh.test", "root")}),
        (resources(make), {}),
    ]


def test_a_kept_compiler_gives_what_a_fresh_one_gives(make: Any, mesh: Any, gateway: Any) -> None:
    kept = Compiler()
    for resources_now, inputs in steps(make) + steps(make)[::-1]:
        fresh = mesh(*resources_now, host=gateway, **inputs)
        reused = mesh(*resources_now, host=gateway, compiler=kept, **inputs)
        assert reused.snapshot == fresh.snapshot
        assert sorted(reused.problems) == sorted(fresh.problems)


def test_equal_inputs_made_anew_change_nothing(make: Any, mesh: Any) -> None:
    kept = Compiler()
    first = mesh(*resources(make), compiler=kept).snapshot
    again = mesh(*resources(make), compiler=kept).snapshot
    assert again.scopes["default"] is first.scopes["default"]
    update = difference(first, again)
    assert (update.put, update.remove) == ({}, {})


def test_only_hosts_that_reach_a_moved_service_are_sent(make: Any, mesh: Any) -> None:
    kept = Compiler()
    virtual = make.virtual("reviews", make.rule("reviews"))
    first = mesh(virtual, compiler=kept).snapshot
    name = ServiceName("default", "ratings")
    both = {name: (), ServiceName("default", "reviews"): (make.instance("v1"),)}
    one = mesh(virtual, compiler=kept, instances=both).snapshot
    assert sorted(difference(first, one).put["default"]) == [RATINGS, REVIEWS]
    moved = {**both, name: (make.instance("v5"),)}
    two = mesh(virtual, compiler=kept, instances=moved).snapshot
    assert list(difference(one, two).put["default"]) == [RATINGS]


def test_a_rule_routing_elsewhere_is_compiled_with_its_target(make: Any, mesh: Any) -> None:
    kept = Compiler()
    virtual = make.virtual("reviews", make.rule("ratings"))
    first = mesh(virtual, compiler=kept)
    moved = {ServiceName("default", "ratings"): (make.instance("v5", "10.5.5.5"),)}
    second = mesh(virtual, compiler=kept, instances=moved)
    changed = difference(first.snapshot, second.snapshot).put["default"]
    assert sorted(changed) == [RATINGS, REVIEWS]
    assert second.cluster(REVIEWS).endpoints[0].address == "10.5.5.5"


def test_a_service_that_leaves_is_dropped(mesh: Any) -> None:
    kept = Compiler()
    first = mesh(compiler=kept).snapshot
    gone = mesh(compiler=kept, naming={}, instances={}).snapshot
    assert difference(first, gone).remove == {"default": (RATINGS, REVIEWS)}
    assert list(gone.blobs) == [gone.host]
