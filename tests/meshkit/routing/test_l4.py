"""Routes of whole connections: defaults, tls by server name, tcp by port (istio-semantics 1.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshkit.model.resources import L4Match, L4Route, Port, RouteDestination, ServiceEntry
from meshkit.model.resources import WorkloadEntrySpec as Endpoint
from meshkit.names import ServiceName
from meshkit.routing.inputs import NamedPort, Naming
from meshkit.snapshot.types import TCPRoute

DB = "db.default.svc.cluster.local"
OTHER = "other.default.svc.cluster.local"
PORTS = (
    *(NamedPort("tls", 443, "TLS"), NamedPort("auto", 7000, "AUTO")),
    *(NamedPort("http", 8080, "HTTP"), NamedPort("tcp", 5432, "TCP")),
)
NAMES = {
    ServiceName("default", name): Naming((f"spiffe://cluster.local/ns/default/sa/{name}",), PORTS)
    for name in ("db", "other")
}


def l4(to: str, *matches: L4Match) -> L4Route:
    """``db``, ``db:v1`` (a subset), several apart by spaces with equal weight."""
    pairs = [(*item.split(":"), "")[:2] for item in to.split()]
    return L4Route(matches, tuple(RouteDestination(h, s, weight=1) for h, s in pairs))


def sni(*hosts: str, **more: Any) -> L4Match:
    return L4Match(hosts, **more)


@pytest.fixture
def compiled(make: Any, mesh: Any) -> Any:
    """Compile one VirtualService of ``db`` with these rules, and look at db's TCP routes."""

    def run(tls: Any = (), tcp: Any = (), http: Any = (), *more: Any, **inputs: Any) -> Any:
        virtual = replace(make.virtual("db"), tls=tuple(tls), tcp=tuple(tcp), http=tuple(http))
        instances = {
            name: tuple(
                make.instance("main", "10.0.0.1", port.port, port.protocol, port_name=port.name)
                for port in PORTS
            )
            for name in NAMES
        }
        return mesh(virtual, *more, naming=NAMES, instances=instances, **inputs)

    return run


def shown(routes: tuple[TCPRoute, ...]) -> list[tuple[str, str]]:
    return [(" ".join(r.sni_hosts), " ".join(d.cluster for d in r.destinations)) for r in routes]


def test_each_port_of_a_service_has_the_routes_of_its_kind(compiled: Any) -> None:
    look = compiled()
    host = look.host(OTHER)
    assert set(host.ports) == {7000, 8080}
    assert {port: shown(routes) for port, routes in host.tcp.items()} == {
        port: [("", f"outbound|{port}||{OTHER}")] for port in (443, 5432, 7000)
    }
    protocols = {name.split("|")[1]: c.protocol for name, c in host.clusters.items()}
    assert protocols == {"443": "TLS", "5432": "TCP", "7000": "AUTO", "8080": "HTTP"}
    assert host.tcp[5432][0].name == host.tcp[5432][0].origin == "default"
    assert look.host(DB).tcp == {
        port: routes for port, routes in look.host(DB).tcp.items() if routes[0].origin == "default"
    }


def test_tls_rules_act_on_tls_ports_and_tcp_rules_on_the_others(compiled: Any) -> None:
    look = compiled(tls=[l4("other", sni("db"))], tcp=[l4("other")])
    host = look.host(DB)
    assert shown(host.tcp[443]) == [("db", f"outbound|443||{OTHER}")]
    assert shown(host.tcp[5432]) == [("", f"outbound|5432||{OTHER}")]
    assert shown(host.tcp[7000]) == [("", f"outbound|7000||{OTHER}")]
    assert host.ports[8080][0].origin == "default"
    assert host.tcp[443][0].origin.startswith("VirtualService/default/db")


def test_http_rules_leave_the_tcp_ports_to_the_service(make: Any, compiled: Any) -> None:
    host = compiled(http=[make.rule("other")]).host(DB)
    assert {r.origin for routes in host.tcp.values() for r in routes} == {"default"}
    assert host.ports[8080][0].destinations[0].cluster == f"outbound|8080||{OTHER}"


def test_trap_an_exact_server_name_beats_the_longest_wildcard_whatever_the_order(
    compiled: Any,
) -> None:
    rules = [
        l4("db", sni("*")),
        l4("other", sni("*.example.org", "*.a.example.org")),
        l4("db", sni("x.example.org")),
    ]
    routes = compiled(tls=rules).host(DB).tcp[443]
    assert [r.sni_hosts[0] for r in routes] == [
        *("x.example.org", "*.a.example.org", "*.example.org", "*")
    ]


def test_trap_of_the_same_server_name_the_first_rule_has_it(compiled: Any) -> None:
    routes = compiled(tls=[l4("other", sni("db")), l4("db", sni("db"))]).host(DB).tcp[443]
    assert shown(routes) == [("db", f"outbound|443||{OTHER}")]


def test_trap_the_first_tcp_rule_that_applies_ends_the_list(compiled: Any) -> None:
    rules = [l4("db", L4Match(port=1)), l4("other"), l4("db")]
    routes = compiled(tcp=rules).host(DB).tcp[5432]
    assert shown(routes) == [("", f"outbound|5432||{OTHER}")]


def test_trap_no_tls_route_on_a_port_means_bytes_to_the_service(compiled: Any) -> None:
    rules = [l4("other", sni("db", port=444)), l4("other", sni("db", gateways=("default/edge",)))]
    assert shown(compiled(tls=rules).host(DB).tcp[443]) == [("", f"outbound|443||{DB}")]


def test_a_match_is_all_of_its_fields(compiled: Any) -> None:
    """⚠ Unlike HTTP's, where gateways hide the rest (istio-semantics 1.2)."""
    match = L4Match(port=5432, gateways=("mesh",))
    look = compiled(tcp=[l4("other", match)])
    assert shown(look.host(DB).tcp[5432]) == [("", f"outbound|5432||{OTHER}")]
    assert look.host(DB).tcp[7000][0].origin == "default"


def test_weights_and_subsets_are_per_connection(make: Any, compiled: Any) -> None:
    rule = make.destination("db", make.subset("v1"), make.subset("v2"))
    look = compiled((), [l4("db:v1 db:v2")], (), rule)
    (route,) = look.host(DB).tcp[5432]
    assert [(d.cluster, d.weight) for d in route.destinations] == [
        (f"outbound|5432|{subset}|{DB}", 1) for subset in ("v1", "v2")
    ]


def test_a_target_that_does_not_exist_is_named_and_said(compiled: Any) -> None:
    look = compiled(tcp=[l4("nobody")])
    (route,) = look.host(DB).tcp[5432]
    assert route.destinations[0].cluster not in look.host(DB).clusters
    assert set(look.problems) == {"unknown-host"}


def test_a_rule_that_cannot_act_leaves_the_service_as_it_is(compiled: Any) -> None:
    nothing = L4Route((), (RouteDestination("db"), RouteDestination("other")))
    look = compiled(tcp=[nothing])
    assert look.host(DB).tcp[5432][0].origin == "default"
    assert look.problems == ["invalid"]


def test_a_host_without_a_service_is_routed_on_every_port_that_its_rules_tell_apart(
    make: Any, compiled: Any
) -> None:
    virtual = replace(
        make.virtual("router", hosts=("router.example",)),
        tls=(l4("db", sni("router.example")),),
        tcp=(l4("other", L4Match(port=9)), l4("db", L4Match(port=5432))),
    )
    tcp = compiled((), (), (), virtual).host("router.example").tcp
    assert shown(tcp[5432]) == [
        ("router.example", f"outbound|5432||{DB}"),
        ("", f"outbound|5432||{DB}"),
    ]
    assert shown(tcp[9])[-1] == ("", f"outbound|9||{OTHER}")
    assert shown(tcp[0]) == [("router.example", f"outbound|0||{DB}")]


def test_a_tcp_port_of_an_entry_is_reached_in_plaintext(make: Any, mesh: Any) -> None:
    entry = ServiceEntry(
        make.meta("ServiceEntry", "pg"),
        ("pg.example",),
        (Port(5432, "TCP", "pg", 15432),),
        endpoints=(Endpoint("192.0.2.1"),),
    )
    host = mesh(entry).host("pg.example")
    (cluster,) = host.clusters.values()
    assert (cluster.protocol, cluster.accounts) == ("TCP", ())
    assert [(e.address, e.port, e.sni) for e in cluster.endpoints] == [("192.0.2.1", 15432, "")]
    assert shown(host.tcp[5432]) == [("", "outbound|5432||pg.example")]


def test_a_protocol_of_another_release_is_bytes(make: Any, mesh: Any) -> None:
    name = ServiceName("default", "db")
    found = (make.instance(port=5432, protocol="thrift", mesh_port=None),)
    host = mesh(naming={}, instances={name: found}).host(DB)
    assert not host.ports and host.clusters[f"outbound|5432||{DB}"].protocol == "TCP"


def test_trap_1_a_short_destination_is_of_the_rules_namespace(make: Any, compiled: Any) -> None:
    virtual = replace(
        make.virtual("far", hosts=("far.example",), namespace="prod"), tcp=(l4("other"),)
    )
    look = compiled((), (), (), virtual)
    (route,) = look.host("far.example").tcp[0]
    assert route.destinations[0].cluster == "outbound|0||other.prod.svc.cluster.local"


def test_trap_2_rules_bound_to_a_gateway_alone_do_not_act_in_the_mesh(
    make: Any, compiled: Any
) -> None:
    virtual = replace(make.virtual("other", gateways=("default/edge",)), tcp=(l4("db"),))
    assert compiled((), (), (), virtual).host(OTHER).tcp[5432][0].origin == "default"


def test_trap_3_of_two_virtual_services_in_the_mesh_the_oldest_acts_alone(
    make: Any, compiled: Any
) -> None:
    """⚠ Even where the older has no rule of that kind: they do not merge."""
    old = make.virtual("old", make.rule("db"), hosts=("other",), created=1)
    young = replace(make.virtual("young", hosts=("other",), created=2), tcp=(l4("db"),))
    host = compiled((), (), (), young, old).host(OTHER)
    assert host.tcp[5432][0].origin == "default"
    assert host.ports[8080][0].origin.startswith("VirtualService/default/old")


@pytest.mark.parametrize(
    ("weights", "kept"), [((0,), [1]), ((7,), [1]), ((3, 1), [3, 1]), ((0, 5), [5])]
)
def test_trap_15_and_16_weights_are_relative_and_a_single_one_is_ignored(
    compiled: Any, weights: tuple[int, ...], kept: list[int]
) -> None:
    rule = L4Route((), tuple(RouteDestination("other", weight=weight) for weight in weights))
    (route,) = compiled(tcp=[rule]).host(DB).tcp[5432]
    assert [d.weight for d in route.destinations] == kept


def test_trap_17_the_destinations_port_is_explicit_or_its_only_or_the_listeners(
    make: Any, compiled: Any
) -> None:
    entry = ServiceEntry(
        make.meta("ServiceEntry", "one"),
        ("one.example",),
        (Port(9, "TCP", "t"),),
        endpoints=(Endpoint("192.0.2.1"),),
    )
    explicit = L4Route((L4Match(port=7000),), (RouteDestination("other", port=5432),))
    host = compiled((), [explicit, l4("one.example", L4Match(port=5432))], (), entry).host(DB)
    assert shown(host.tcp[7000]) == [("", f"outbound|5432||{OTHER}")]
    assert shown(host.tcp[5432]) == [("", "outbound|9||one.example")]
