"""Checks across resources."""

from __future__ import annotations

import pytest

from meshkit.model.check import Known, check
from meshkit.model.load import load_document
from meshkit.model.problems import Problem, Severity
from meshkit.model.resources import Resource
from meshkit.model.world import wildcards
from meshkit.names import MeshSettings, ServiceName

SERVICES = {
    ServiceName("default", "reviews"): {9080: "HTTP"},
    ServiceName("default", "ratings"): {9080: "HTTP", 9090: "HTTP"},
    ServiceName("prod", "cart"): {80: "HTTP"},
}


def resource(
    kind: str, name: str, spec: object, namespace: str = "default", created: int = 0
) -> Resource:
    group = "security" if kind == "PeerAuthentication" else "networking"
    document = {
        "apiVersion": f"{group}.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    loaded = load_document(document, f"{name}.yaml:1", created=created)
    assert loaded.resources, loaded.problems
    return loaded.resources[0]


def to(host: str, subset: str = "", port: int = 0) -> dict[str, object]:
    destination: dict[str, object] = {"host": host}
    if subset:
        destination["subset"] = subset
    if port:
        destination["port"] = {"number": port}
    return {"route": [{"destination": destination}]}


def virtual(*rules: object, name: str = "vs", created: int = 0, **spec: object) -> Resource:
    namespace = str(spec.pop("namespace", "default"))
    body = {"hosts": ["reviews"], "http": list(rules), **spec}
    return resource("VirtualService", name, body, namespace, created)


def rule(
    *subsets: str, host: str = "reviews", namespace: str = "default", name: str = "dr"
) -> Resource:
    listed = [{"name": subset, "labels": {"version": subset}} for subset in subsets]
    return resource("DestinationRule", name, {"host": host, "subsets": listed}, namespace)


def found(*resources: Resource, complete: bool = True) -> list[Problem]:
    return check(resources, Known(MeshSettings(), SERVICES, complete))


def one(*resources: Resource, complete: bool = True) -> Problem:
    (problem,) = found(*resources, complete=complete)
    return problem


def test_nothing_to_say() -> None:
    assert found(virtual(to("reviews", "v1", 9080)), rule("v1", "v2")) == []


def test_unknown_host_with_a_near_miss() -> None:
    problem = one(virtual(to("revews")))
    assert problem.severity is Severity.ERROR
    assert problem.field == "spec.http[0].route[0].destination.host"
    assert "revews.default.svc.cluster.local" in problem.message
    assert problem.remedy == 'did you mean "reviews"?'


def test_unknown_host_warns_where_services_may_still_come() -> None:
    assert one(virtual(to("revews")), complete=False).severity is Severity.WARNING


def test_trap_1_a_short_host_is_in_the_namespace_of_the_rule() -> None:
    problem = one(virtual(to("cart")))
    assert problem.remedy == 'did you mean "cart.prod.svc.cluster.local"?'
    assert found(virtual(to("cart"), hosts=["cart"], namespace="prod")) == []


def test_a_dotted_host_is_not_completed() -> None:
    assert 'did you mean "cart.prod.svc.cluster.local"' in one(virtual(to("cart.prod"))).remedy


def test_a_service_entry_declares_hosts() -> None:
    entry = resource(
        "ServiceEntry",
        "se",
        {
            "hosts": ["api.example.org", "*.example.net"],
            "ports": [{"number": 80, "protocol": "HTTP", "name": "h"}],
            "resolution": "STATIC",
            "endpoints": [{"address": "10.0.0.1"}],
        },
    )
    good = virtual(to("api.example.org", port=80), to("a.example.net", port=80))
    assert [each.code for each in found(entry, good)] == ["unreachable-rule"]
    assert one(entry, virtual(to("api.example.org", port=81))).code == "unknown-port"


def test_unknown_port_names_the_ports() -> None:
    problem = one(virtual(to("ratings", port=80)))
    assert problem.code == "unknown-port"
    assert problem.remedy == "its ports are 9080, 9090"


def test_subset_without_destination_rule() -> None:
    problem = one(virtual(to("reviews", "v1")), complete=False)
    assert (problem.code, problem.severity) == ("unknown-subset", Severity.ERROR)
    assert "add a DestinationRule for reviews" in problem.remedy


def test_subset_that_the_rule_does_not_define() -> None:
    assert "defines v1, v2" in one(virtual(to("reviews", "next")), rule("v1", "v2")).remedy
    assert one(virtual(to("reviews", "v11")), rule("v1")).remedy == 'did you mean "v1"?'


@pytest.mark.parametrize("namespace", ["default", "prod", "istio-system"])
def test_trap_4_rules_of_client_service_and_root_namespace_count(namespace: str) -> None:
    service = virtual(to("cart.prod.svc.cluster.local", "v1"))
    assert found(service, rule("v1", host="cart.prod.svc.cluster.local", namespace=namespace)) == []


def test_trap_4_the_first_namespace_hides_the_others() -> None:
    host = "cart.prod.svc.cluster.local"
    problem = one(
        virtual(to(host, "v1")),
        rule("v2", host=host, name="near"),
        rule("v1", host=host, namespace="prod"),
    )
    assert (problem.code, problem.severity) == ("hidden-subset", Severity.WARNING)
    assert "DestinationRule/default/near hides" in problem.message


def test_an_exact_rule_beats_a_wildcard_one() -> None:
    wild = rule("v1", host="*.default.svc.cluster.local", name="wild")
    assert found(virtual(to("reviews", "v1")), wild) == []
    assert one(virtual(to("reviews", "v1")), wild, rule("v2")).code == "unknown-subset"


def test_rules_after_one_without_match_are_not_reached() -> None:
    problem = one(virtual({"name": "all", **to("reviews")}, to("ratings")))
    assert (problem.code, problem.severity) == ("unreachable-rule", Severity.WARNING)
    assert problem.field == "spec.http[1]"
    assert 'http[0] ("all") takes every request' in problem.message


@pytest.mark.parametrize(
    "everything", [{}, {"uri": {"prefix": "/"}}, {"uri": {"regex": ".*"}}, {"name": "n"}]
)
def test_a_match_of_everything_ends_the_list(everything: object) -> None:
    service = virtual({"match": [everything], **to("reviews")}, to("ratings"))
    assert one(service).code == "unreachable-rule"


def test_a_match_that_stands_earlier_is_not_reached() -> None:
    first = {"headers": {"a": {"exact": "1"}, "b": {}}, "name": "x"}
    again = {"name": "y", "headers": {"b": {}, "a": {"exact": "1"}}}
    other = {"uri": {"exact": "/x"}}
    problem = one(
        virtual({"match": [first, other], **to("reviews")}, {"match": [again], **to("ratings")})
    )
    assert "http[0] has the same match" in problem.message
    reached = {"match": [again, {"uri": {"exact": "/y"}}], **to("ratings")}
    assert found(virtual({"match": [first], **to("reviews")}, reached)) == []


def test_trap_3_the_oldest_virtual_service_of_a_host_wins() -> None:
    problem = one(
        virtual(to("reviews"), name="a", created=9),
        virtual(to("reviews"), name="b", created=4),
        complete=False,
    )
    assert problem.severity is Severity.WARNING
    assert problem.position.source == "a.yaml"
    assert "VirtualService/default/b" in problem.message


def test_ties_are_broken_by_name_and_the_unapplied_is_newest() -> None:
    problem = one(virtual(to("reviews"), name="z", created=4), virtual(to("reviews"), name="a"))
    assert problem.position.source == "a.yaml"
    problem = one(virtual(to("reviews"), name="z"), virtual(to("reviews"), name="a"))
    assert problem.position.source == "z.yaml"


def test_one_host_written_in_two_ways() -> None:
    service = virtual(to("reviews"), hosts=["reviews", "reviews.default.svc.cluster.local"])
    assert one(service).code == "duplicate-host"


def test_a_host_that_nobody_declares_warns() -> None:
    problem = one(virtual(to("reviews"), hosts=["revues"]))
    assert (problem.field, problem.severity) == ("spec.hosts[0]", Severity.WARNING)


def gateway(name: str = "edge", hosts: tuple[str, ...] = ("*",), **port: object) -> Resource:
    server = {
        "port": {"number": 80, "protocol": "HTTP", "name": "h", **port},
        "hosts": list(hosts),
    }
    if port.get("protocol") == "HTTPS":
        server["tls"] = {"mode": "SIMPLE", "serverCertificate": "/c", "privateKey": "/k"}
    return resource("Gateway", name, {"selector": {"a": "b"}, "servers": [server]})


def test_gateway_that_is_not_there() -> None:
    service = virtual(to("reviews"), hosts=["a.example.org"], gateways=["egde"])
    problem = one(service, gateway())
    assert (problem.code, problem.severity) == ("unknown-gateway", Severity.ERROR)
    assert problem.remedy == 'did you mean "default/edge"?'


@pytest.mark.parametrize(
    ("pattern", "served"),
    [
        ("*", True),
        ("a.example.org", True),
        ("*.example.org", True),
        ("./a.example.org", True),
        ("default/*", True),
        ("other/*", False),
        ("*.a.example.org", False),
        ("b.example.org", False),
    ],
)
def test_hosts_that_the_gateway_does_not_serve(pattern: str, served: bool) -> None:
    service = virtual(to("reviews"), hosts=["a.example.org"], gateways=["edge"])
    codes = [each.code for each in found(service, gateway(hosts=(pattern,)))]
    assert codes == ([] if served else ["unserved-host"])


def test_gateways_of_one_selector_may_not_contradict() -> None:
    secure = gateway("secure", ("a",), number=443, protocol="HTTPS")
    assert one(secure, gateway("twin", ("a",), number=443, protocol="HTTPS")).code == (
        "duplicate-host"
    )
    plain = gateway("plain", ("b",), number=443)
    assert one(secure, plain).code == "conflict"
    assert found(gateway("one"), gateway("two")) == []


def static(name: str, host: str, **spec: object) -> Resource:
    ports = [{"number": 80, "protocol": "HTTP", "name": "h"}]
    base = {"hosts": [host], "ports": ports, "resolution": "STATIC"}
    rest = spec or {"endpoints": [{"address": "10.0.0.1"}]}
    return resource("ServiceEntry", name, {**base, **rest})


def test_service_entries_against_services_and_each_other() -> None:
    assert one(static("se", "reviews.default.svc.cluster.local")).code == "conflict"
    problem = one(static("a", "x.y"), static("b", "x.y"))
    assert (problem.code, problem.position.source) == ("duplicate-host", "b.yaml")


def test_a_workload_selector_must_select() -> None:
    entry = static("se", "x.y", workloadSelector={"labels": {"app": "x"}})
    assert one(entry).code == "nothing-selected"
    labels = {"address": "10.0.0.1", "labels": {"app": "x"}}
    assert found(entry, resource("WorkloadEntry", "we", labels)) == []
    assert one(entry, resource("WorkloadEntry", "we", labels, "prod")).code == "nothing-selected"


def test_destination_rules_of_one_host() -> None:
    policy = {"trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}
    first = resource("DestinationRule", "a", {"host": "reviews", "subsets": [{"name": "v1"}]})
    second = resource(
        "DestinationRule", "b", {"host": "reviews", "subsets": [{"name": "v1"}], **policy}
    )
    assert [each.code for each in found(first, second)] == ["duplicate-host", "duplicate"]
    assert one(rule("v1", host="revews")).code == "unknown-host"


def test_trap_25_the_oldest_peer_authentication_of_a_level_acts() -> None:
    strict = {"mtls": {"mode": "STRICT"}}
    older = resource("PeerAuthentication", "b", strict, created=1)
    newer = resource("PeerAuthentication", "a", {"mtls": {"mode": "DISABLE"}}, created=2)
    problem = one(older, newer)
    assert problem.position.source == "a.yaml"
    selected = {"selector": {"matchLabels": {"app": "x"}}, **strict}
    assert found(older, resource("PeerAuthentication", "c", selected)) == []


def test_wildcards_of_a_host_are_the_longest_first() -> None:
    assert list(wildcards("a.b.c")) == ["*.b.c", "*.c", "*"]
    assert list(wildcards("a")) == ["*"]


def test_a_bundle_with_thousands_of_unknown_hosts_is_judged() -> None:
    rules = [to(f"missing-{index}") for index in range(200)]
    services = {ServiceName("default", f"there-{index}"): {80: "HTTP"} for index in range(50)}
    matched = [{"match": [{"uri": {"exact": f"/{i}"}}], **r} for i, r in enumerate(rules)]
    service = virtual(*matched, hosts=["there-0"])
    problems = check([service], Known(MeshSettings(), services, True))
    assert len(problems) == 200
    assert problems[-1].remedy == "declare the service on its host, or write a ServiceEntry"
