from __future__ import annotations

import json
from typing import Any

import pytest

from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.kinds import kind_of
from meshkit.model.load import load_text

RESOURCE: dict[str, Any] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "reviews", "namespace": "default"},
    "spec": {"host": "reviews"},
    "created": 2,
    "revision": 5,
    "author": "spiffe://demo.mesh/operator/root",
    "time": 1_800_000_000.0 - 3700,
    "source": "dr.yaml",
}
REVISION: dict[str, Any] = {
    "revision": 5,
    "author": "spiffe://demo.mesh/operator/root",
    "time": 1_800_000_000.0,
    "message": "subsets",
    "changes": [{"key": "DestinationRule/default/reviews", "change": "configured"}],
    "resources": [RESOURCE],
}


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("vs", "VirtualService"),
        ("VirtualService", "VirtualService"),
        ("destinationrules", "DestinationRule"),
        ("serviceentries", "ServiceEntry"),
        ("PA", "PeerAuthentication"),
        ("all", ""),
    ],
)
def test_names_of_kinds(word: str, kind: str) -> None:
    assert kind_of(word) == kind


def test_a_misspelt_kind_is_guessed() -> None:
    with pytest.raises(Failure) as caught:
        kind_of("virtualservise")
    assert "did you mean VirtualService?" in caught.value.remedy


def test_get_shows_a_table(ctl: Any) -> None:
    result = ctl("get", "dr", resources={"resources": [RESOURCE]})
    assert result.stdout.splitlines()[1].split() == [
        "DestinationRule",
        "default",
        "reviews",
        "5",
        "spiffe://demo.mesh/operator/root",
        "1h1m",
    ]
    assert ctl.api.calls == [("/v1/resources", {"kind": "DestinationRule", "namespace": "default"})]


def test_get_of_all_namespaces_asks_for_none(ctl: Any) -> None:
    result = ctl("get", "all", "-A", resources={"resources": []})
    assert ctl.api.calls == [("/v1/resources", {})]
    assert (result.exit_code, result.stdout) == (0, "no such resource is applied\n")


def test_get_of_a_name_that_is_not_there(ctl: Any) -> None:
    result = ctl("get", "dr", "nope", resources={"resources": []})
    assert result.exit_code == Exit.NOT_FOUND
    assert "no dr nope in namespace default" in result.stderr


def test_manifests_can_be_applied_again(ctl: Any) -> None:
    result = ctl("get", "dr", "--manifests", resources={"resources": [RESOURCE, RESOURCE]})
    loaded = load_text(result.stdout.split("---\n")[0], "x")
    assert not loaded.problems and loaded.resources[0].meta.key == "DestinationRule/default/reviews"
    assert "author" not in result.stdout


def test_history_and_one_revision(ctl: Any) -> None:
    result = ctl("history", history={"revisions": [REVISION]})
    assert "2027-01-15 08:00:00Z" in result.stdout and "subsets" in result.stdout
    one = ctl("history", "5", **{"history/5": REVISION})
    assert "DestinationRule/default/reviews  configured" in one.stdout
    assert "history 5 --manifests | meshctl apply -f -" in one.stderr


def test_the_way_back(ctl: Any) -> None:
    result = ctl("history", "5", "--manifests", **{"history/5": REVISION})
    assert not load_text(result.stdout, "x").problems
    assert ctl("history", "--manifests").exit_code == Exit.USAGE


def test_a_token_is_alone_on_standard_output(ctl: Any) -> None:
    result = ctl(
        "token",
        "create",
        "--host",
        "vm1",
        "--account",
        "default/reviews",
        "--ttl",
        "1h",
        tokens={"token": "bm1.x.y", "expires": 1.0},
    )
    assert result.stdout == "bm1.x.y\n"
    assert "for host vm1, for 1h" in result.stderr
    assert ctl.api.calls == [
        ("/v1/tokens", {"host": "vm1", "accounts": ["default/reviews"], "ttl": 3600})
    ]


@pytest.mark.parametrize("ttl", ["", "0", "-1m", "1.5h", "10 m", "1w"])
def test_a_bad_ttl_is_wrong_usage(ctl: Any, ttl: str) -> None:
    result = ctl("token", "create", "--host", "a", "--account", "b/c", "--ttl", ttl)
    assert result.exit_code == Exit.USAGE


def test_tokens_are_listed_without_their_text(ctl: Any) -> None:
    known = {
        "host": "vm1",
        "accounts": ["default/a"],
        "expires": ctl.time + 60,
        "created": ctl.time,
    }
    result = ctl("token", "list", tokens={"tokens": [known]})
    assert result.stdout.splitlines()[1].split()[-1] == "1m"


def test_proxy_config_shows_whatever_columns_the_host_sends(ctl: Any) -> None:
    rows = [{"name": "mesh", "port": 15443, "hosts": ["a", "b"]}, {"name": "x", "tls": {"v": 1}}]
    result = ctl("proxy", "config", "vm1", "listeners", **{"hosts/vm1/config": {"listeners": rows}})
    assert result.stdout.splitlines()[1:] == [
        "NAME  PORT   HOSTS  TLS",
        "mesh  15443  a b    -",
        "x     -      -      v=1",
    ]
    assert ctl.api.calls == [("/v1/hosts/vm1/config", {"what": "listeners"})]


def test_version_needs_no_server(ctl: Any) -> None:
    result = ctl("version", "-o", "json")
    assert json.loads(result.stdout)["kind"] == "Version" and ctl.api.calls == []
