from __future__ import annotations

import pytest

from meshkit.identity import spiffe


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://cluster.local/ns/default/sa/reviews",
        "spiffe://example.org/host/vm1",
        "spiffe://a/b",
        "spiffe://a_b-c.d/Mixed.Case_seg-1",
        "spiffe://" + "a" * 255 + "/x",
    ],
)
def test_strict_ids_survive_a_round_trip(text: str) -> None:
    assert str(spiffe.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "scheme"),
        ("https://cluster.local/ns/a/sa/b", "scheme"),
        ("SPIFFE://cluster.local/x", "scheme"),
        ("spiffe:/cluster.local/x", "scheme"),
        ("spiffe://", "trust domain"),
        ("spiffe:///x", "trust domain"),
        ("spiffe://Cluster.local/x", "trust domain"),
        ("spiffe://user@cluster.local/x", "trust domain"),
        ("spiffe://cluster.local:443/x", "trust domain"),
        ("spiffe://clüster.local/x", "trust domain"),
        ("spiffe://" + "a" * 256 + "/x", "trust domain"),
        ("spiffe://cluster.local", "no path"),
        ("spiffe://cluster.local/", "segment"),
        ("spiffe://cluster.local/x/", "segment"),
        ("spiffe://cluster.local//x", "segment"),
        ("spiffe://cluster.local/./x", "'.'"),
        ("spiffe://cluster.local/x/..", "'.'"),
        ("spiffe://cluster.local/%2e%2e/x", "segment"),
        ("spiffe://cluster.local/x?y=1", "segment"),
        ("spiffe://cluster.local/x#y", "segment"),
        ("spiffe://cluster.local/x y", "segment"),
        ("spiffe://cluster.local/x\n", "segment"),
        ("spiffe://cluster.local/" + "a" * 2048, "longer"),
    ],
)
def test_what_is_not_strict_is_refused_with_its_rule(text: str, why: str) -> None:
    with pytest.raises(spiffe.SpiffeError, match=why):
        spiffe.parse(text)


def test_each_shape_is_told_apart() -> None:
    workload = spiffe.parse(spiffe.account_id("td", "default", "reviews"))
    host = spiffe.parse(spiffe.host_id("td", "vm1.example.org"))
    operator = spiffe.parse(spiffe.operator_id("td", "admin"))
    assert (workload.account, workload.host, workload.operator) == (
        ("default", "reviews"),
        None,
        None,
    )
    assert (host.account, host.host, host.operator) == (None, "vm1.example.org", None)
    assert (operator.account, operator.host, operator.operator) == (None, None, "admin")


def test_formatting_never_makes_another_identity() -> None:
    for name in ("a/b", "..", "", "a%2fb", "a b"):
        with pytest.raises(spiffe.SpiffeError):
            spiffe.host_id("td", name)
        with pytest.raises(spiffe.SpiffeError):
            spiffe.account_id("td", "default", name)


def test_the_server_lives_in_the_root_namespace() -> None:
    assert spiffe.server_id("td", "istio-system") == "spiffe://td/ns/istio-system/sa/mesh-ca"
