"""mTLS or plaintext, who may answer, and ServiceEntries: fail closed."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.model.resources import (
    Port,
    ServiceEntry,
    TrafficPolicy,
    WorkloadEntry,
    WorkloadEntrySpec,
)
from meshkit.names import MeshSettings, ServiceName
from meshkit.routing.inputs import Naming

REVIEWS = "reviews.default.svc.cluster.local"
NAME = ServiceName("default", "reviews")
ACCOUNT = "spiffe://cluster.local/ns/default/sa/reviews"


def reached(cluster: Any) -> list[tuple[str, int, str]]:
    return [(e.address, e.port, e.sni) for e in cluster.endpoints]


def sni(instance: str, port: int = 9080) -> str:
    return f"p{port}.{instance}.{REVIEWS}"


def compiled(make: Any, mesh: Any, named: bool, *instances: Any, tls: Any = None) -> Any:
    naming = {NAME: make.naming("default/reviews")[1]} if named else {}
    policy = TrafficPolicy(tls=tls)
    rules = [make.destination("reviews", policy=policy)] if tls else []
    return mesh(*rules, naming=naming, instances={NAME: instances}).cluster(REVIEWS)


def test_named_is_mtls_with_the_admitted_accounts(make: Any, mesh: Any) -> None:
    cluster = compiled(make, mesh, True, make.instance("v1"))
    assert reached(cluster) == [("10.0.0.1", 15443, sni("v1"))]
    assert cluster.accounts == (ACCOUNT,)


def test_named_leaves_plaintext_instances_out(make: Any, mesh: Any) -> None:
    cluster = compiled(make, mesh, True, make.instance("v1", mesh_port=None))
    assert reached(cluster) == []


def test_named_with_disable_is_plaintext_to_the_service_port(make: Any, mesh: Any) -> None:
    both = (make.instance("v1"), make.instance("old", "10.0.0.7", mesh_port=None))
    cluster = compiled(make, mesh, True, *both, tls="DISABLE")
    assert reached(cluster) == [("10.0.0.1", 9080, ""), ("10.0.0.7", 9080, "")]
    assert cluster.accounts == ()


def test_unnamed_and_not_in_the_mesh_is_plaintext(make: Any, mesh: Any) -> None:
    cluster = compiled(make, mesh, False, make.instance("v1", mesh_port=None))
    assert reached(cluster) == [("10.0.0.1", 9080, "")]


def test_unnamed_in_the_mesh_is_believed_by_nobody(make: Any, mesh: Any) -> None:
    cluster = compiled(make, mesh, False, make.instance("v1"))
    assert reached(cluster) == [("10.0.0.1", 15443, sni("v1"))]
    assert cluster.accounts == ()


def test_unnamed_with_one_mesh_instance_reaches_none_in_plaintext(make: Any, mesh: Any) -> None:
    both = (make.instance("v1"), make.instance("x", "10.0.0.7", mesh_port=None))
    cluster = compiled(make, mesh, False, *both)
    assert reached(cluster) == [("10.0.0.1", 15443, sni("v1"))]


def test_mutual_where_nobody_speaks_it_reaches_nobody(make: Any, mesh: Any) -> None:
    plain = make.instance("v1", mesh_port=None)
    assert reached(compiled(make, mesh, False, plain, tls="ISTIO_MUTUAL")) == []


def test_discovery_cannot_add_a_port_to_a_named_service(make: Any, mesh: Any) -> None:
    look = mesh(
        naming={NAME: make.naming("default/reviews")[1]},
        instances={NAME: (make.instance("v1", port=1),)},
    )
    assert list(look.host(REVIEWS).ports) == [9080]
    assert reached(look.cluster(REVIEWS)) == []


def test_a_declared_service_without_instances_is_known(make: Any, mesh: Any) -> None:
    look = mesh(instances={}, naming={NAME: make.naming("default/reviews")[1]})
    assert look.cluster(REVIEWS).endpoints == ()


def test_a_name_too_long_for_sni_leaves_out_that_instance(make: Any, mesh: Any) -> None:

    domain = ".".join(["d" * 60] * 4)
    look = mesh(mesh=MeshSettings(domain=domain))
    assert look.cluster(f"reviews.default.{domain}").endpoints == ()
    assert "unreachable" in look.problems


# -- ServiceEntry -------------------------------------------------------------


def entry(make: Any, *endpoints: WorkloadEntrySpec, **more: Any) -> ServiceEntry:
    given: dict[str, Any] = {
        "hosts": ("db.example.com",),
        "ports": (Port(80, "HTTP", "http"),),
        "endpoints": endpoints,
        **more,
    }
    name = given.pop("name", "db")
    return ServiceEntry(make.meta("ServiceEntry", name, created=given.pop("created", 1)), **given)


DB = WorkloadEntrySpec("192.0.2.1")


def test_trap_24_external_is_plaintext_even_with_accounts(make: Any, mesh: Any) -> None:
    spec = WorkloadEntrySpec("192.0.2.1", service_account="db")
    cluster = mesh(entry(make, spec)).cluster("db.example.com")
    assert reached(cluster) == [("192.0.2.1", 80, "")]


def test_internal_with_accounts_is_mtls_to_those(make: Any, mesh: Any) -> None:
    spec = WorkloadEntrySpec("192.0.2.1", {"http": 15443}, service_account="db")
    plain = WorkloadEntrySpec("192.0.2.2")
    cluster = mesh(entry(make, spec, plain, location="MESH_INTERNAL")).cluster("db.example.com")
    ((address, port, name),) = reached(cluster)
    assert (address, port) == ("192.0.2.1", 15443)
    assert name.startswith("p80.any.db-example-com-")
    assert cluster.accounts == ("spiffe://cluster.local/ns/default/sa/db",)


@pytest.mark.parametrize(
    ("ports", "target", "expected"), [({"http": 1}, 2, 1), ({}, 2, 2), ({"other": 1}, None, 80)]
)
def test_the_port_of_an_endpoint(
    make: Any, mesh: Any, ports: dict[str, int], target: int | None, expected: int
) -> None:
    spec = WorkloadEntrySpec("192.0.2.1", ports)
    look = mesh(entry(make, spec, ports=(Port(80, "HTTP", "http", target),)))
    assert reached(look.cluster("db.example.com")) == [("192.0.2.1", expected, "")]


def test_a_selector_takes_workload_entries_of_its_namespace(make: Any, mesh: Any) -> None:
    def workload(name: str, namespace: str, **labels: str) -> WorkloadEntry:
        spec = WorkloadEntrySpec(f"192.0.2.{len(name)}", labels=labels)
        return WorkloadEntry(make.meta("WorkloadEntry", name, namespace), spec)

    look = mesh(
        entry(make, workload_selector={"app": "db"}),
        workload("a", "default", app="db", tier="x"),
        workload("bb", "default", app="web"),
        workload("ccc", "other", app="db"),
    )
    assert reached(look.cluster("db.example.com")) == [("192.0.2.1", 80, "")]


def test_the_older_of_two_entries_keeps_the_host(make: Any, mesh: Any) -> None:
    young = entry(make, WorkloadEntrySpec("192.0.2.9"), name="young", created=5)
    look = mesh(young, entry(make, DB))
    assert reached(look.cluster("db.example.com")) == [("192.0.2.1", 80, "")]
    assert look.problems == ["conflict"]


def test_policy_is_believed_before_discovery_and_naming_before_both(make: Any, mesh: Any) -> None:
    claimed = entry(make, DB, hosts=(REVIEWS,))
    fake = {NAME: (make.instance("fake", "10.6.6.6", port=80, mesh_port=None),)}
    assert reached(mesh(claimed, naming={}, instances=fake).cluster(REVIEWS))[0][0] == "192.0.2.1"
    naming = {NAME: Naming((ACCOUNT,), make.naming("default/reviews", 80)[1].ports)}
    assert mesh(claimed, naming=naming, instances=fake).cluster(REVIEWS).accounts == (ACCOUNT,)


def test_an_account_that_is_no_name_spoils_only_its_entry(make: Any, mesh: Any) -> None:
    bad = WorkloadEntrySpec("192.0.2.1", service_account="no/name")
    look = mesh(entry(make, bad, location="MESH_INTERNAL"))
    assert look.problems == ["invalid"]
    assert look.routes(REVIEWS)
