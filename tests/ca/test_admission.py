from __future__ import annotations

import pytest

from ca.admission import (
    Declaration,
    DeclaredPort,
    Entitlement,
    NameRefused,
    admit,
    check_host,
    judge_declaration,
    merge,
    parse_entitlement,
)
from meshkit.names import ServiceName

HTTP = DeclaredPort(9080, "http", "HTTP")


@pytest.mark.parametrize("text", ["default/reviews", "default/web:shop,cart", "a/b.c_d-e"])
def test_entitlements_survive_a_round_trip(text: str) -> None:
    assert str(parse_entitlement(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "reviews", "/reviews", "default/", "default/a/b", "Default/a", "default/..", "a/b:",
     "a/b:x,,y", "a/b:X", "a/b:x/y", "istio-system/mesh-ca", "default/mesh-ca", "a/b\n"],
)  # fmt: skip
def test_other_texts_and_the_servers_own_account_are_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        parse_entitlement(text)


@pytest.mark.parametrize("name", ["vm1", "VM1.example.org", "a_b", "x" * 253])
def test_host_names(name: str) -> None:
    assert check_host(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "a.", "x" * 254, "a\n"])
def test_names_that_cannot_stand_in_an_identity(name: str) -> None:
    with pytest.raises(NameRefused):
        check_host(name)


@pytest.mark.parametrize(
    ("name", "account", "entitled", "reason"),
    [
        ("reviews", "reviews", "default/reviews", ""),
        ("shop", "web", "default/web:shop,cart", ""),
        ("web", "web", "default/web:shop", ""),
        ("reviews", "reviews", "default/ratings", "not entitled"),
        ("reviews", "reviews", "other/reviews", "not entitled"),
        ("payments", "web", "default/web:shop,cart", "may not serve"),
    ],
)
def test_what_is_admitted(name: str, account: str, entitled: str, reason: str) -> None:
    declared = Declaration("default", name, account, "v1", (HTTP,))
    refusal = judge_declaration("vm1", declared, [parse_entitlement(entitled)])
    assert reason in (refusal.reason if refusal else "")
    assert bool(refusal) == bool(reason)


def test_the_remedy_is_the_command_that_admits() -> None:
    declared = Declaration("default", "cart", "web")
    refusal = judge_declaration("vm1", declared, [])
    assert refusal is not None
    command, _, entitlement = refusal.remedy.rpartition(" ")
    assert command.endswith("meshctl token create --host vm1 --account")
    assert judge_declaration("vm1", declared, [parse_entitlement(entitlement)]) is None


def test_merging_joins_the_services_of_one_account() -> None:
    one, two = Entitlement("d", "web", ("cart",)), Entitlement("d", "web", ("shop",))
    assert merge([one], [two, Entitlement("d", "a")]) == (
        Entitlement("d", "a"),
        Entitlement("d", "web", ("cart", "shop")),
    )


def test_naming_is_the_union_of_what_is_admitted() -> None:
    https = DeclaredPort(9443, "https", "HTTPS")
    declarations = {
        "vm1": [Declaration("default", "reviews", "reviews", "v1", (HTTP,))],
        "vm2": [Declaration("default", "reviews", "web", "v2", (https,))],
        "vm3": [Declaration("default", "reviews", "evil", "v3", (DeclaredPort(1, "", "TCP"),))],
    }
    entitled = {
        "vm1": [parse_entitlement("default/reviews")],
        "vm2": [parse_entitlement("default/web:reviews")],
        "vm3": [parse_entitlement("default/evil")],
    }
    naming = admit(declarations, entitled)
    assert list(naming) == [ServiceName("default", "reviews")]
    one = naming[ServiceName("default", "reviews")]
    assert one.accounts == (("default", "reviews"), ("default", "web"))
    assert one.ports == (HTTP, https)


def test_without_entitlement_there_is_no_naming() -> None:
    assert admit({"vm1": [Declaration("default", "a", "a")]}, {}) == {}
