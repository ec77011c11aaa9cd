from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshctl.checks import Finding, Outcome, destinations, expiry, judge
from meshctl.view import Certificate, Discovery, Host, Service, Status
from meshkit.names import ServiceName

NOW = 1_000_000.0
HOST = Host(
    name="vm1",
    connected=True,
    seen=NOW,
    revision=7,
    accepted=True,
    reason="",
    workers=((1, 4242, "abc"),),
    certificates=(Certificate("spiffe://demo/host/vm1", NOW + 86400),),
    discovery=Discovery("embedded", True, 3),
    services=("default/reviews",),
    refused=(),
)
STATUS = Status(
    revision=7,
    domain="svc.cluster.local",
    hosts=(HOST,),
    services=(Service("default/reviews", ("spiffe://demo/ns/default/sa/reviews",), ("vm1",), 1),),
    authority=(Certificate("root", NOW + 1e8),),
)
ROUTE: dict[str, Any] = {
    "kind": "VirtualService",
    "metadata": {"name": "reviews", "namespace": "default"},
    "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]},
}


def bad(status: Status, *resources: dict[str, Any]) -> list[Finding]:
    groups = judge(status, resources, NOW)
    return [f for group in groups for f in group.findings if f.outcome is not Outcome.OK]


def test_a_healthy_mesh_has_no_finding() -> None:
    assert bad(STATUS, ROUTE) == []


@pytest.mark.parametrize(
    ("change", "says", "outcome"),
    [
        ({"connected": False, "seen": NOW - 60}, "away for 1m", Outcome.BAD),
        ({"connected": False, "seen": 0.0}, "never connected", Outcome.BAD),
        ({"accepted": False, "reason": "no subset v9"}, "no subset v9", Outcome.BAD),
        ({"revision": 6}, "runs revision 6, the newest is 7", Outcome.WARN),
        ({"workers": ()}, "no worker", Outcome.BAD),
        ({"certificates": ()}, "no certificate", Outcome.BAD),
        ({"certificates": (Certificate("x", NOW - 5),)}, "x expired 5s ago", Outcome.BAD),
        ({"certificates": (Certificate("x", NOW + 600),)}, "x ends in 10m", Outcome.WARN),
        ({"refused": (("default/shop", "not entitled", "do this"),)}, "default/shop", Outcome.BAD),
        ({"discovery": Discovery("consul", False)}, "cannot reach discovery", Outcome.BAD),
        (
            {"discovery": Discovery("consul", True, 3, (("default/x", "empty answer"),))},
            "holds the last good set of default/x: empty answer",
            Outcome.WARN,
        ),
    ],
)
def test_each_fault_of_a_host_is_one_finding_with_a_remedy(
    change: dict[str, Any], says: str, outcome: Outcome
) -> None:
    (finding,) = bad(replace(STATUS, hosts=(replace(HOST, **change),)))
    assert says in finding.text
    assert finding.outcome is outcome and finding.remedy


def test_a_service_without_endpoints() -> None:
    service = replace(STATUS.services[0], endpoints=0)
    (finding,) = bad(replace(STATUS, services=(service,)))
    assert "default/reviews has no endpoint" in finding.text


def test_a_route_to_what_nobody_declares() -> None:
    route = {**ROUTE, "metadata": {"name": "x", "namespace": "shop"}}
    (finding,) = bad(STATUS, route)
    assert "routes to shop/reviews" in finding.text


def test_a_mesh_without_hosts() -> None:
    (finding,) = bad(replace(STATUS, hosts=(), services=()))
    assert finding.text == "no host has joined"


def test_external_hosts_are_no_services_of_the_mesh() -> None:
    rules = [
        {"route": [{"destination": {"host": h}}]} for h in ("api.example.com", "cart.shop.svc.x")
    ]
    resource = {**ROUTE, "spec": {"http": rules}}
    assert destinations([resource], "svc.x") == {ServiceName("shop", "cart")}


@pytest.mark.parametrize("kind", ["tls", "tcp"])
def test_destinations_of_connections_count_too(kind: str) -> None:
    spec = {kind: [{"route": [{"destination": {"host": "db"}}]}], "http": None}
    resource = {"kind": "VirtualService", "metadata": {"name": "x"}, "spec": spec}
    assert destinations([resource], "svc.x") == {ServiceName("default", "db")}


@pytest.mark.parametrize(
    ("left", "outcome"),
    [(-1, Outcome.BAD), (0, Outcome.BAD), (99, Outcome.WARN), (100, Outcome.OK)],
)
def test_expiry_bounds(left: float, outcome: Outcome) -> None:
    assert expiry("x", NOW + left, NOW, 100, "renew").outcome is outcome
