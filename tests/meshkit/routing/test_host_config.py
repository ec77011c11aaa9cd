"""Listeners and workloads of a host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshkit.model.resources import (
    L4Match,
    L4Route,
    LocalService,
    PeerAuthentication,
    RouteDestination,
    ServicePort,
    Upstream,
)
from meshkit.names import ServiceName
from meshkit.routing.compile import Compiler
from meshkit.routing.inputs import HostParts, NamedPort, Naming

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


@pytest.mark.parametrize(
    ("protocol", "plain"),
    [("HTTP", "HTTP"), ("GRPC", "HTTP"), ("MYSQL", "TCP"), ("TLS", "TCP"), ("AUTO", "AUTO")],
)
@pytest.mark.parametrize("mode", ["STRICT", "PERMISSIVE"])
def test_a_plaintext_listener_takes_what_the_port_declares(
    make: Any, mesh: Any, mode: Any, protocol: str, plain: str
) -> None:
    """Of TLS too: inbound no server name routes, so a ClientHello is bytes."""
    policy = PeerAuthentication(make.meta("PeerAuthentication", "default"), None, mode)
    local = service(ports=(ServicePort("x", 9080, 19080, protocol),))
    config = mesh(policy, host=host(local)).config
    (spec,) = [each for each in config.listeners if each.kind == "plain"]
    assert spec.protocol == plain
    assert config.workloads[0].ports[0].protocol == protocol
    assert config.workloads[0].ports[0].mode == mode


@pytest.mark.parametrize(
    ("declared", "said", "taken"),
    [
        ("HTTP", "", "HTTP"),
        ("HTTP2", "", "HTTP"),
        ("TCP", "", "TCP"),
        ("HTTPS", "", "TLS"),
        ("AUTO", "", "AUTO"),
        ("TCP", "MYSQL", "TCP"),
        (None, "", "HTTP"),
        (None, "REDIS", "TCP"),
    ],
)
def test_a_local_port_takes_what_its_service_speaks(
    mesh: Any, declared: str | None, said: str, taken: str
) -> None:
    """A service that is not known (yet) is HTTP, unless the upstream says otherwise."""
    local = service(ports=(), upstreams=(Upstream("127.0.0.1:81", "db", 80, protocol=said),))
    ports = (NamedPort("x", 80, declared),) if declared else ()
    names = {ServiceName("default", "db"): Naming(("spiffe://a/ns/default/sa/db",), ports)}
    look = mesh(host=host(local), naming=names, instances={})
    (spec,) = [each for each in look.config.listeners if each.kind == "local"]
    assert (spec.protocol, look.problems) == (taken, [])


def test_an_upstream_that_contradicts_its_service_is_said(mesh: Any) -> None:
    upstream = Upstream("127.0.0.1:81", "reviews", 9080, protocol="TCP")
    look = mesh(host=host(service("a", ports=(), upstreams=(upstream,))))
    assert look.problems == ["conflict"]
    assert look.config.listeners[-1].protocol == "HTTP"


def test_a_local_port_follows_its_service_when_that_changes(mesh: Any) -> None:
    compiler = Compiler()
    local = host(service(ports=(), upstreams=(Upstream("127.0.0.1:81", "db", 80),)))
    found = []
    for protocol in ("HTTP", "TCP"):
        ports = (NamedPort("x", 80, protocol),)
        names = {ServiceName("default", "db"): Naming(("spiffe://a/ns/default/sa/db",), ports)}
        look = mesh(host=local, naming=names, instances={}, compiler=compiler)
        found.append(look.config.listeners[-1].protocol)
    assert found == ["HTTP", "TCP"]


@pytest.mark.parametrize(
    ("rules", "taken"),
    [
        (("tcp",), "TCP"),
        (("tls",), "TLS"),
        (("tls", "tcp"), "TCP"),
        (("http", "tcp"), "HTTP"),
    ],
)
def test_a_host_of_rules_alone_speaks_what_they_are_for(
    make: Any, mesh: Any, rules: tuple[str, ...], taken: str
) -> None:
    to = (RouteDestination("reviews"),)
    made = {"tcp": L4Route((), to), "tls": L4Route((L4Match(("r.example",)),), to)}
    given: dict[str, Any] = {kind: (made.get(kind, make.rule("reviews")),) for kind in rules}
    virtual = replace(make.virtual("r", hosts=("r.example",)), **given)
    local = service("a", ports=(), upstreams=(Upstream("127.0.0.1:81", "r.example", 80),))
    assert mesh(virtual, host=host(local)).config.listeners[-1].protocol == taken


def test_a_captured_service_has_a_listener_of_its_own(mesh: Any) -> None:
    local = service("a", ports=(), capture="[::1]:15101")
    spec = mesh(host=host(local)).config.listeners[-1]
    assert (spec.kind, spec.address, spec.port) == ("capture", "::1", 15101)
    assert (spec.owner, spec.protocol) == ("default/a/v1", "AUTO")


def test_trap_25_port_modes_name_the_workloads_port_of_tcp_too(make: Any, mesh: Any) -> None:
    meta = make.meta("PeerAuthentication", "p")
    modes: Any = {15432: "STRICT", 5432: "DISABLE"}
    policy = PeerAuthentication(meta, {"app": "reviews"}, "UNSET", modes)
    local = service(ports=(ServicePort("tcp", 5432, 15432, "TCP"),))
    assert mesh(policy, host=host(local)).config.workloads[0].ports[0].mode == "STRICT"
