"""Listeners and workloads of a host."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.model.resources import LocalService, PeerAuthentication, ServicePort, Upstream
from meshkit.routing.inputs import HostParts

PORT = ServicePort("http", 9080, 19080, "HTTP")


def service(name: str = "reviews", **more: Any) -> LocalService:
    given: dict[str, Any] = {
        "namespace": "default",
        "service_account": name,
        "instance": "v1",
        "labels": {"app": name},
        "ports": (PORT,),
        **more,
    }
    return LocalService(name, **given)


def host(*services: LocalService, **more: Any) -> HostParts:
    given: dict[str, Any] = {"mesh_port": 15443, "uids": {"": 0}, **more}
    return HostParts("vm1", "10.0.0.9", services=services, **given)


def listeners(look: Any) -> dict[str, tuple[str, str, int]]:
    return {spec.id: (spec.kind, spec.address, spec.port) for spec in look.config.listeners}


def test_the_listeners_of_an_ordinary_host(mesh: Any) -> None:
    local = service(upstreams=(Upstream("127.0.0.1:9181", "ratings", 9080),))
    look = mesh(host=host(local, proxy=("127.0.0.1", 15001)))
    assert listeners(look) == {
        "mesh": ("mesh", "10.0.0.9", 15443),
        "proxy": ("proxy", "127.0.0.1", 15001),
        "local|127.0.0.1:9181": ("local", "127.0.0.1", 9181),
        "plain|default/reviews|9080": ("plain", "10.0.0.9", 9080),
    }
    upstream = next(spec for spec in look.config.listeners if spec.kind == "local")
    assert upstream.upstream == ("ratings.default.svc.cluster.local", 9080)
    assert upstream.owner == "default/reviews/v1"


@pytest.mark.parametrize("mode", ["STRICT", "PERMISSIVE", "DISABLE"])
def test_every_mode_keeps_the_plaintext_listener(make: Any, mesh: Any, mode: Any) -> None:
    policy = PeerAuthentication(make.meta("PeerAuthentication", "default"), None, mode)
    look = mesh(policy, host=host(service()))
    assert "plain|default/reviews|9080" in listeners(look)
    assert look.config.workloads[0].ports[0].mode == mode


def test_a_workload_has_its_identity_and_uid(mesh: Any) -> None:
    local = service(user="app", service_account="special")
    (workload,) = mesh(host=host(local, uids={"app": 1001})).config.workloads
    assert workload.id == "default/reviews/v1"
    assert workload.identity == "spiffe://cluster.local/ns/default/sa/special"
    assert workload.uid == 1001
    assert workload.ports[0].target == 19080


def test_an_unknown_user_is_nobodys_identity(mesh: Any) -> None:
    look = mesh(host=host(service(user="ghost")))
    assert look.config.workloads[0].uid == -1
    assert look.problems == ["unknown-user"]


def test_instances_of_one_service_share_a_plaintext_listener(mesh: Any) -> None:
    look = mesh(host=host(service(), service(instance="v2")))
    assert look.problems == []
    assert list(listeners(look)) == ["mesh", "plain|default/reviews|9080"]


def test_two_services_on_one_port_is_reported(mesh: Any) -> None:
    look = mesh(host=host(service(), service("ratings")))
    assert look.problems == ["conflict"]
    assert list(listeners(look)) == ["mesh", "plain|default/ratings|9080"]


def test_the_mesh_port_is_never_given_away(mesh: Any) -> None:
    look = mesh(host=host(service(), mesh_port=9080))
    assert listeners(look) == {"mesh": ("mesh", "10.0.0.9", 9080)}
    assert look.problems == ["conflict"]


@pytest.mark.parametrize("address", ["10.0.0.9", "0.0.0.0"])
def test_an_application_on_the_service_port_itself_keeps_it(mesh: Any, address: str) -> None:
    local = service(address=address, ports=(ServicePort("http", 9080, 9080, "HTTP"),))
    assert list(listeners(mesh(host=host(local)))) == ["mesh"]


def test_loopback_on_the_same_port_is_no_conflict(mesh: Any) -> None:
    local = service(ports=(ServicePort("http", 9080, 9080, "HTTP"),))
    assert "plain|default/reviews|9080" in listeners(mesh(host=host(local)))


def test_namespaces_of_local_services_are_scopes(mesh: Any) -> None:
    look = mesh(host=host(service(namespace="shop")), scopes=frozenset())
    assert list(look.snapshot.scopes) == ["shop"]
