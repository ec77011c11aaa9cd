"""Cross checks by protocol: rules that act nowhere, names that are not ours, wrong targets."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.model.check import Known, check
from meshkit.model.load import load_document
from meshkit.model.problems import Problem, Severity
from meshkit.model.resources import Resource
from meshkit.names import MeshSettings, ServiceName

SERVICES = {
    ServiceName("default", "db"): {5432: "TCP", 443: "TLS"},
    ServiceName("default", "mixed"): {80: "HTTP", 443: "HTTPS", 7000: "AUTO"},
    ServiceName("default", "web"): {80: "HTTP"},
    ServiceName("default", "raw"): {9000: "redis"},
}


def made(kind: str, spec: dict[str, Any], name: str = "x") -> Resource:
    document = {"apiVersion": "networking.istio.io/v1", "kind": kind, "spec": spec}
    loaded = load_document({**document, "metadata": {"name": name}}, f"{name}.yaml:1")
    assert loaded.resources, loaded.problems
    return loaded.resources[0]


def to(host: str, port: int = 0) -> dict[str, Any]:
    destination: dict[str, Any] = {"host": host}
    if port:
        destination["port"] = {"number": port}
    return {"route": [{"destination": destination}]}


def tls(*names: str, host: str = "db", port: int = 443, **match: Any) -> dict[str, Any]:
    return {"match": [{"sniHosts": list(names), **match}], **to(host, port)}


def tcp(host: str = "db", port: int = 5432, **match: Any) -> dict[str, Any]:
    return {**({"match": [match]} if match else {}), **to(host, port)}


def virtual(*hosts: str, **spec: Any) -> Resource:
    return made("VirtualService", {"hosts": list(hosts), **spec})


def gateway(protocol: str, port: int, mode: str = "") -> Resource:
    files = {"serverCertificate": "/c", "privateKey": "/k"} if mode == "SIMPLE" else {}
    server: dict[str, Any] = {
        "port": {"number": port, "protocol": protocol, "name": "x"},
        "hosts": ["*"],
    }
    if mode:
        server["tls"] = {"mode": mode, **files}
    return made("Gateway", {"selector": {"a": "b"}, "servers": [server]}, "edge")


def found(*resources: Resource) -> list[Problem]:
    return check(resources, Known(MeshSettings(), SERVICES, True))


def codes(*resources: Resource) -> list[str]:
    return [problem.code for problem in found(*resources)]


def test_what_is_right_is_not_spoken_of() -> None:
    assert codes(virtual("db", tls=[tls("db")], tcp=[tcp()])) == []
    assert codes(virtual("mixed", http=[to("web")], tls=[tls("mixed")], tcp=[tcp()])) == []


def test_trap_every_server_name_is_within_the_hosts() -> None:
    (problem,) = found(virtual("db", tls=[tls("db", "other.example")]))
    assert (problem.code, problem.severity) == ("foreign-sni-host", Severity.ERROR)
    assert problem.field == "spec.tls[0].match[0].sniHosts"
    assert "add it to hosts: (db)" in str(problem)


@pytest.mark.parametrize(
    ("hosts", "name", "right"),
    [
        (["*.example"], "a.example", True),
        (["*.example"], "*.a.example", True),
        (["*.example"], "*.example", True),
        (["a.example"], "*.example", False),
        (["*.example"], "example", False),
        (["db"], "db.default.svc.cluster.local", True),
    ],
)
def test_names_within_wildcards_and_short_hosts(hosts: list[str], name: str, right: bool) -> None:
    assert ("foreign-sni-host" not in codes(virtual(*hosts, tls=[tls(name)]))) is right


@pytest.mark.parametrize(
    ("rules", "unreached"),
    [
        ([tls("db"), tls("db")], True),
        ([tls("db"), tls("db", port=443)], True),
        ([tls("db", port=443), tls("db")], True),
        ([tls("*.db"), tls("a.db")], False),
        ([tls("a.db"), tls("*.db")], False),
        ([tls("a.db", "b.db"), tls("b.db")], True),
        ([tls("a.db"), tls("a.db", "b.db")], False),
    ],
)
def test_trap_of_the_same_name_only_the_first_rule_is_reached(rules: Any, unreached: bool) -> None:
    """⚠ A wildcard before an exact name hides nothing: the exact name wins."""
    problems = found(virtual("db", "*.db", tls=rules))
    assert ([p.code for p in problems] == ["unreachable-rule"]) is unreached
    if unreached:
        assert "tls[0] takes its connections first" in problems[0].message


@pytest.mark.parametrize(
    ("rules", "unreached"),
    [
        ([tcp(), tcp()], 1),
        ([tcp(), {"match": [{"port": 5432}], **to("db", 5432)}], 1),
        ([{"match": [{"port": 5432}], **to("db", 5432)}, tcp()], 0),
        ([tcp(gateways=["mesh"]), tcp()], 0),
        ([tcp(), tcp(), tcp()], 2),
    ],
)
def test_trap_the_first_tcp_rule_without_a_match_ends_the_list(rules: Any, unreached: int) -> None:
    assert codes(virtual("db", tcp=rules)) == ["unreachable-rule"] * unreached


@pytest.mark.parametrize(
    ("host", "rules", "said"),
    [
        ("web", {"tcp": [tcp()]}, "port 80 takes http rules"),
        ("web", {"tls": [tls("web")]}, "need a port of protocol TLS or HTTPS"),
        ("raw", {"tls": [tls("raw")]}, "port 9000 takes tcp rules"),
        ("db", {"http": [to("web")]}, "the http rules act nowhere"),
        ("db", {"tcp": [{"match": [{"port": 1}], **to("db", 5432)}]}, "acts nowhere"),
        ("db", {"tcp": [{"match": [{"port": 443}], **to("db", 5432)}]}, "acts nowhere"),
    ],
)
def test_trap_a_rule_of_the_wrong_kind_acts_nowhere(host: str, rules: Any, said: str) -> None:
    """⚠ Istio ignores it in silence (istio-semantics 1.4: only on un-terminated ports)."""
    (problem,) = found(virtual(host, **rules))
    assert problem.code == "unreachable-rule" and problem.severity is Severity.WARNING
    assert said in str(problem)


@pytest.mark.parametrize(
    ("server", "rules", "silent"),
    [
        (("TLS", 443, "PASSTHROUGH"), {"tls": [tls("a.example")]}, True),
        (("HTTPS", 443, "PASSTHROUGH"), {"tls": [tls("a.example")]}, True),
        (("HTTPS", 443, "SIMPLE"), {"tls": [tls("a.example")]}, False),
        (("HTTPS", 443, "PASSTHROUGH"), {"http": [to("web")]}, False),
        (("TLS", 443, "SIMPLE"), {"tcp": [tcp()]}, True),
        (("TLS", 443, "PASSTHROUGH"), {"tcp": [tcp()]}, False),
        (("TCP", 5432, ""), {"tcp": [tcp()]}, True),
        (("TCP", 5432, ""), {"http": [to("web")]}, False),
        (("HTTP", 80, ""), {"tcp": [tcp()]}, False),
        (("GRPC", 80, ""), {"http": [to("web")]}, True),
    ],
)
def test_trap_rules_at_a_gateway_need_a_server_of_their_kind(
    server: Any, rules: Any, silent: bool
) -> None:
    problems = codes(gateway(*server), virtual("a.example", gateways=["edge"], **rules))
    assert (problems == []) is silent
    assert set(problems) <= {"unreachable-rule"}


def test_a_match_of_a_gateway_that_the_service_is_not_bound_to() -> None:
    (first, *_) = found(virtual("db", tcp=[tcp(gateways=["other"])]))
    assert first.code == "unbound-gateway"
    assert 'not bound to "default/other"' in first.message and "are mesh" in first.remedy


def test_in_doubt_nothing_is_said() -> None:
    assert codes(virtual("unknown.example", tcp=[tcp()], tls=[tls("unknown.example")])) == []


@pytest.mark.parametrize(
    ("rules", "protocol"),
    [
        ({"tcp": [tcp("web", 80)]}, "HTTP"),
        ({"tls": [tls("db", host="web", port=0)]}, "HTTP"),
        ({"http": [to("raw")]}, "REDIS"),
        ({"http": [to("db", 443)]}, "TLS"),
    ],
)
def test_a_destination_of_the_wrong_protocol(rules: Any, protocol: str) -> None:
    problems = found(virtual("db", "mixed", **rules))
    assert [p.code for p in problems] == ["wrong-protocol"]
    assert f"is {protocol}, which takes no" in problems[0].message


def test_unknown_hosts_ports_and_subsets_of_connections() -> None:
    rule = {"route": [{"destination": {"host": "db", "subset": "v9", "port": {"number": 5432}}}]}
    problems = found(virtual("db", tcp=[rule], tls=[tls("db", host="nobody"), tls("db", port=1)]))
    assert {p.code for p in problems} == {
        *("unknown-subset", "unknown-host", "unknown-port", "unreachable-rule")
    }
    assert {p.field for p in problems} == {
        "spec.tcp[0].route[0].destination.subset",
        "spec.tls[0].route[0].destination.host",
        "spec.tls[1].route[0].destination.port",
        "spec.tls[1]",
    }
