from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.discovery import consul_records as records
from meshd.discovery.base import Instance
from meshd.discovery.consul_records import MalformedAnswer, read_health, registrations
from meshd.discovery.local import HostAddress
from meshd.discovery.view import Answer
from meshkit.model.resources import Health, LocalService, ServicePort
from meshkit.names import ServiceName

HOST = HostAddress("vm1", "10.0.0.5", 15443)
REVIEWS = LocalService(
    name="reviews",
    namespace="default",
    service_account="reviews",
    instance="v1",
    labels={"app": "reviews", "version": "v1"},
    ports=(ServicePort("http", 9080, 19080, "HTTP"), ServicePort("admin", 9081, 19081, "HTTP")),
    health=Health("/health", 19080, 5.0, 1.0),
)


def test_one_registration_a_port_with_two_checks() -> None:
    found = registrations([REVIEWS], HOST, 15.0)
    assert list(found) == [
        "baremesh:vm1:default:reviews:v1:9080",
        "baremesh:vm1:default:reviews:v1:9081",
    ]
    first = found["baremesh:vm1:default:reviews:v1:9080"]
    assert (first.name, first.address, first.port) == ("reviews", "10.0.0.5", 9080)
    assert first.tagged_addresses == {"baremesh": {"Address": "10.0.0.5", "Port": 15443}}
    assert first.instance == "default/reviews/v1"
    assert first.checks == (
        {
            "CheckID": f"{first.id}:app",
            "Name": "application",
            "HTTP": "http://127.0.0.1:19080/health",
            "Interval": "5000ms",
            "Timeout": "1000ms",
        },
        {"CheckID": f"{first.id}:meshd", "Name": "meshd", "TTL": "15000ms"},
    )


def test_ids_of_other_names_never_meet() -> None:
    ambiguous = [
        replace(REVIEWS, namespace="a", name="b-c"),
        replace(REVIEWS, namespace="a-b", name="c"),
    ]
    assert len(registrations(ambiguous, HOST, 15.0)) == 4


def test_the_digest_follows_every_field() -> None:
    digests = {
        next(iter(registrations([each], host, ttl).values())).meta["baremesh-digest"]
        for each, host, ttl in [
            (REVIEWS, HOST, 15.0),
            (replace(REVIEWS, labels={"app": "reviews"}), HOST, 15.0),
            (replace(REVIEWS, health=None), HOST, 15.0),
            (REVIEWS, HostAddress("vm1", "10.0.0.5", 15444), 15.0),
            (REVIEWS, HOST, 30.0),
        ]
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("address", "health", "check"),
    [
        ("127.0.0.1", None, {"TCP": "127.0.0.1:19080"}),
        ("0.0.0.0", None, {"TCP": "127.0.0.1:19080"}),
        ("::", Health("/", 80), {"HTTP": "http://[::1]:80/"}),
        ("10.1.1.1", Health(None, 81), {"TCP": "10.1.1.1:81"}),
    ],
)
def test_the_application_is_asked_where_it_listens(
    address: str, health: Health | None, check: dict[str, str]
) -> None:
    service = replace(REVIEWS, address=address, health=health)
    found = records.application_check(service, service.ports[0])
    assert {key: found[key] for key in check} == check


@given(st.dictionaries(st.text(min_size=1, max_size=80), st.text(max_size=200), max_size=20))
def test_labels_survive_meta_and_its_limits(labels: dict[str, str]) -> None:
    meta = records.labels_to_meta(labels)
    assert all(len(value) <= 512 for value in meta.values())
    assert records.labels_from_meta(meta) == labels


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_damaged_labels_are_none(text: str) -> None:
    assert records.labels_from_meta({"baremesh-labels": text}) == {}


def entry(service: dict[str, Any], *checks: tuple[str, str]) -> dict[str, Any]:
    return {
        "Node": {"Node": "n1", "Address": "10.9.9.9"},
        "Service": {"ID": "x", "Service": "web", "Port": 80, **service},
        "Checks": [{"CheckID": name, "Status": status} for name, status in checks],
    }


@pytest.mark.parametrize(
    ("meta", "protocol"),
    [
        ({}, "HTTP"),
        ({"protocol": "tcp"}, "TCP"),
        ({"protocol": "grpc"}, "GRPC"),
        ({"protocol": "carrier-pigeon"}, "TCP"),
    ],
)
def test_a_foreign_service_may_say_its_protocol(meta: dict[str, str], protocol: str) -> None:
    """Consul's users write it in lower case; what nobody knows can only be bytes."""
    service = {"ID": "x", "Service": "x", "Port": 1, "Address": "10.0.0.1", "Meta": meta}
    found = records.read_instance(
        {"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": service}
    )
    assert found is not None and found.protocol == protocol


def test_a_service_without_our_meta_is_plaintext_in_default() -> None:
    (answer,) = read_health([entry({"Meta": {"version": "v2"}, "Weights": {"Passing": 5}})]).items()
    web = ServiceName("default", "web")
    expected = Instance(web, "x", "n1", "10.9.9.9", 80, "HTTP", labels={"version": "v2"}, weight=5)
    assert answer == (web, Answer((expected,)))


@pytest.mark.parametrize(
    ("checks", "state"),
    [
        ([], "healthy"),
        ([("serfHealth", "passing"), ("x:app", "passing")], "healthy"),
        ([("x:app", "warning")], "failing"),
        ([("x:app", "critical"), ("x:meshd", "passing")], "failing"),
        ([("x:app", "passing"), ("x:meshd", "critical")], "failing"),
        ([("serfHealth", "critical"), ("x:app", "critical")], "unreachable"),
        ([("_service_maintenance:x", "critical"), ("serfHealth", "critical")], "left"),
        ([("_node_maintenance", "critical")], "left"),
    ],
)
def test_what_the_checks_say(checks: list[tuple[str, str]], state: str) -> None:
    assert records.state_of(entry({}, *checks)["Checks"]) == state


def test_an_unreachable_instance_is_only_missing() -> None:
    answer = read_health([entry({}, ("serfHealth", "critical"))])
    assert answer == {ServiceName("default", "web"): Answer()}


@pytest.mark.parametrize(
    "service",
    [{"Kind": "connect-proxy"}, {"Port": 0}, {"Service": "Web.Site"}, {"Service": "a" * 64}],
)
def test_what_the_mesh_cannot_call_is_passed_over(service: dict[str, Any]) -> None:
    assert read_health([entry(service)]) == {}


@pytest.mark.parametrize("answer", [None, {}, "x", [None], [{}], [{"Node": {}, "Service": {}}]])
def test_malformed_health_answers(answer: Any) -> None:
    with pytest.raises(MalformedAnswer):
        read_health(answer)


def test_the_list_of_services() -> None:
    assert records.read_services({"consul": [], "web": ["a"]}) == {"web"}
    with pytest.raises(MalformedAnswer):
        records.read_services(None)
