"""``meshctl host`` against a server in memory."""

from __future__ import annotations

import json
from typing import Any

from meshctl.exits import Exit

VM1 = {
    "host": "vm1",
    "connected": True,
    "seen": 1_799_999_000.0,
    "joined": 1_799_990_000.0,
    "entitlements": ["default/reviews"],
    "revision": 7,
}
VM2 = {**VM1, "host": "vm2", "connected": False, "seen": None, "entitlements": []}
STATUS = {"revision": 7, "hosts": [VM1, VM2]}


def test_list_shows_members_and_their_accounts(ctl: Any) -> None:
    lines = ctl("host", "list", status=STATUS).stdout.splitlines()
    assert lines[1].split() == ["vm1", "connected", "2027-01-15", "05:13:20Z", "default/reviews"]
    assert lines[2].split() == ["vm2", "never", "seen", "2027-01-15", "05:13:20Z", "-"]


def test_list_for_scripts_has_no_more_than_is_documented(ctl: Any) -> None:
    listed = json.loads(ctl("host", "list", "-o", "json", status=STATUS).stdout)
    assert (listed["kind"], listed["version"]) == ("HostList", 1)
    assert listed["items"][0].keys() == {"host", "connected", "seen", "joined", "entitlements"}


def test_no_host_says_how_one_joins(ctl: Any) -> None:
    assert "meshctl token create" in ctl("host", "list", status={"hosts": []}).stdout


def test_grant_adds_to_what_the_host_has(ctl: Any) -> None:
    answer = {"host": "vm1", "accounts": ["default/reviews", "default/ratings"]}
    done = ctl(
        *("host", "grant", "vm1", "--account", "default/ratings"),
        **{"status": STATUS, "hosts/vm1": answer},
    )
    assert done.stdout == "vm1 may use default/reviews default/ratings\n"
    assert ctl.api.calls[-1] == (
        "PUT /v1/hosts/vm1",
        {"accounts": ["default/reviews", "default/ratings"]},
    )


def test_grant_exactly_does_not_ask_what_was(ctl: Any) -> None:
    answer = {"host": "vm1", "accounts": ["default/ratings"]}
    command = ("host", "grant", "vm1", "--exact", "--account", "default/ratings", "-o", "json")
    done = ctl(*command, **{"hosts/vm1": answer})
    assert json.loads(done.stdout)["accounts"] == ["default/ratings"]
    assert ctl.api.calls == [("PUT /v1/hosts/vm1", {"accounts": ["default/ratings"]})]


def test_grant_to_a_host_that_is_not_there(ctl: Any) -> None:
    done = ctl("host", "grant", "vm9", "--account", "default/ratings", status=STATUS)
    assert done.exit_code == Exit.NOT_FOUND and "meshctl host list" in done.stderr


def test_remove(ctl: Any) -> None:
    done = ctl("host", "remove", "vm1", **{"hosts/vm1": {"host": "vm1"}})
    assert (done.stdout, ctl.api.calls) == ("vm1 removed\n", [("DELETE /v1/hosts/vm1", {})])
    odd = ctl("host", "remove", "a/b", **{"hosts/a%2Fb": {"host": "a/b"}})
    assert odd.exit_code == 0
