from __future__ import annotations

import json
from typing import Any

import pytest

from meshd.agent.policy import Malformed, PolicyState, restore
from meshkit.names import MeshSettings, ServiceName

MESH = {"type": "mesh", "epoch": "e1", "trustDomain": "td", "domain": "svc.x", "rootNamespace": "r"}
NAMING = {
    "type": "naming",
    "services": {
        "default/web": {
            "accounts": ["spiffe://td/ns/default/sa/web"],
            "ports": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        }
    },
}


def document(name: str, mode: str = "STRICT", revision: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"mtls": {"mode": mode}},
        "source": f"{name}.yaml:1",
        "created": 1,
        "revision": revision,
    }


def state_of(*messages: dict[str, Any]) -> PolicyState:
    state = PolicyState()
    for message in messages:
        state.apply(message)
    return state


def full(revision: int, *documents: dict[str, Any]) -> dict[str, Any]:
    return {"type": "state", "revision": revision, "resources": list(documents), "deleted": []}


def changes(
    revision: int, *documents: dict[str, Any], deleted: list[str] | None = None
) -> dict[str, Any]:
    return {
        "type": "changes",
        "revision": revision,
        "resources": list(documents),
        "deleted": deleted or [],
    }


def names(state: PolicyState) -> list[str]:
    return sorted(r.meta.name for r in state.resources)


def test_settings_roots_and_naming() -> None:
    state = state_of(MESH, {"type": "roots", "roots": {"td": "PEM"}}, NAMING)
    assert state.mesh == MeshSettings("td", "svc.x", "r")
    assert state.roots == {"td": "PEM"}
    named = state.naming[ServiceName("default", "web")]
    assert named.accounts == ("spiffe://td/ns/default/sa/web",)
    assert (named.ports[0].port, named.ports[0].protocol) == (80, "HTTP")


def test_only_a_difference_counts_as_a_change() -> None:
    state = PolicyState()
    for message in (MESH, NAMING, full(1, document("a"))):
        assert state.apply(message)
        assert not state.apply(message)
    assert not state.apply({"type": "ping"})
    assert not state.apply({"type": "from-the-future", "x": 1})


def test_changes_build_on_what_was_received() -> None:
    state = state_of(full(1, document("a"), document("b")))
    state.apply(changes(2, document("c"), deleted=["PeerAuthentication/default/a"]))
    assert names(state) == ["b", "c"]
    assert state.revision == 2
    state.apply(full(9, document("z")))
    assert names(state) == ["z"]


def test_a_refused_revision_leaves_the_last_good_one_and_says_why() -> None:
    state = state_of(full(1, document("a")))
    assert not state.apply(changes(2, document("b", "STRICTLY")))
    assert "b.yaml:1" in state.refusal
    assert "STRICTLY" in state.refusal
    assert (state.revision, state.received_revision) == (1, 2)
    assert names(state) == ["a"]


def test_a_later_revision_that_mends_it_is_taken_as_a_whole() -> None:
    state = state_of(full(1, document("a")), changes(2, document("b", "STRICTLY")))
    state.apply(changes(3, document("c")))
    assert state.revision == 1  # b is still wrong
    assert state.apply(changes(4, document("b", "PERMISSIVE")))
    assert (state.refusal, state.revision) == ("", 4)
    assert names(state) == ["a", "b", "c"]


def test_what_was_good_comes_back_from_disk() -> None:
    state = state_of(
        MESH, {"type": "roots", "roots": {"td": "PEM"}}, NAMING, full(3, document("a"))
    )
    state.apply(changes(4, document("b", "STRICTLY")))
    again = restore(json.loads(json.dumps(state.dump())))
    assert (again.revision, names(again), again.refusal) == (3, ["a"], "")
    assert (again.mesh, again.roots, again.naming) == (state.mesh, state.roots, state.naming)
    assert again.stream_query() == {"revision": 3, "epoch": "e1"}


@pytest.mark.parametrize("saved", [None, [], {}, {"version": 2}, {"version": 1, "mesh": {}}])
def test_a_file_that_cannot_be_used_counts_as_none(saved: Any) -> None:
    assert restore(saved).stream_query() == {"revision": 0}


@pytest.mark.parametrize(
    "message",
    [
        {"type": "mesh"},
        {"type": "roots", "roots": 3},
        {"type": "naming", "services": {"no-slash": {"accounts": [], "ports": []}}},
        {"type": "naming", "services": {"a/b": {"ports": []}}},
        {"type": "state", "revision": "x", "resources": []},
        {"type": "state", "revision": 1, "resources": [{"kind": "X"}]},
        {"type": "changes", "revision": 1},
    ],
)
def test_what_is_not_of_the_contract_is_malformed(message: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        PolicyState().apply(message)
