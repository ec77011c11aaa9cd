"""Loading: kinds, envelopes, several files, the policy stream, and any text at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.model.check import Known, check
from meshkit.model.dump import to_yaml
from meshkit.model.kinds import REFUSED
from meshkit.model.load import (
    dump,
    known_kinds,
    load_document,
    load_files,
    load_services,
    load_text,
)
from meshkit.names import MeshSettings

GOOD = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  labels: {team: books}
spec:
  hosts: [reviews]
  http:
  - match:
    - headers: {end-user: {exact: test-user}}
    route:
    - destination: {host: reviews, subset: v2}
  - route:
    - destination: {host: reviews, subset: v1}
    timeout: 1.5s
"""


@pytest.mark.parametrize(
    ("kind", "version"),
    [(kind, version) for kind, versions in known_kinds().items() for version in versions],
)
def test_every_version_of_a_kind_is_accepted(kind: str, version: str) -> None:
    specs = {
        "VirtualService": "{hosts: [a], http: [{route: [{destination: {host: a}}]}]}",
        "DestinationRule": "{host: a}",
        "Gateway": "{selector: {a: b},"
        " servers: [{port: {number: 80, protocol: HTTP, name: h}, hosts: [a]}]}",
        "ServiceEntry": "{hosts: [a], ports: [{number: 80, protocol: HTTP, name: h}],"
        " resolution: STATIC, endpoints: [{address: 10.0.0.1}]}",
        "WorkloadEntry": "{address: 10.0.0.1}",
        "PeerAuthentication": "{mtls: {mode: STRICT}}",
    }
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {specs[kind]}\n"
    loaded = load_text(text, "f")
    assert loaded.problems == []
    assert loaded.resources[0].meta.key == f"{kind}/default/x"


@pytest.mark.parametrize(("group", "kind"), list(REFUSED))
def test_known_kinds_are_refused_by_name_with_an_alternative(group: str, kind: str) -> None:
    version = f"{group}/v1" if group else "v1"
    loaded = load_text(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n", "f")
    (problem,) = loaded.problems
    assert kind in problem.message
    assert "not supported" in problem.message
    assert problem.remedy == REFUSED[group, kind].instead
    assert str(problem.position) == "f:2:7"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: VirtualService\nmetadata: {name: x}\n", "apiVersion: is required"),
        ("apiVersion: networking.istio.io/v1\n", "kind: is required"),
        ("apiversion: networking.istio.io/v1\nkind: VirtualService\n", 'rename "apiversion"'),
        (GOOD.replace("VirtualService", "VirtualServices"), 'did you mean "VirtualService"'),
        (GOOD.replace("VirtualService", "virtualservice"), 'did you mean "VirtualService"'),
        (GOOD.replace("VirtualService", "Banana"), "known are: VirtualService"),
        (GOOD.replace("istio.io/v1", "istio.io/v2"), 'has no version "v2"'),
        (GOOD.replace("networking.istio.io", "networkin.istio.io"), "did you mean"),
        (GOOD.replace("networking.istio.io/v1", "v1"), 'is not in "v1"'),
        (GOOD.replace("name: reviews\n", "name: Reviews\n", 1), "not a DNS name"),
        (GOOD.replace("name: reviews\n", "nmae: reviews\n", 1), 'did you mean "name"'),
        (GOOD.replace("name: reviews\n", "generateName: r\n", 1), "give a name"),
        (GOOD.replace("  labels", "  namespace: a.b\n  labels"), "not a DNS label"),
        (GOOD.split("spec:")[0], "spec: is required"),
        ("- a\n", "expected a resource"),
        ("a\n", "expected a resource"),
        ("name: a\nports: []\n", "services.d"),
        ("kind: [a]\napiVersion: 1\n", "expected a string"),
    ],
)
def test_envelopes_refused(text: str, said: str) -> None:
    loaded = load_text(text, "f")
    assert not loaded.resources
    assert not loaded.ok
    assert any(said in str(problem) for problem in loaded.problems), loaded.problems


def test_what_a_server_wrote_warns() -> None:
    text = GOOD.replace("  labels", "  uid: abc\n  labels") + "status: {a: b}\n"
    loaded = load_text(text, "f")
    assert loaded.ok
    assert [problem.field for problem in loaded.problems] == ["metadata.uid", "status"]
    assert "status" not in loaded.resources[0].meta.document


def test_a_list_holds_resources() -> None:
    items = json.dumps([load_text(GOOD, "f").resources[0].meta.document])
    loaded = load_text(f"apiVersion: v1\nkind: List\nitems: {items}\n", "f")
    assert [resource.meta.name for resource in loaded.resources] == ["reviews"]


def test_files_may_not_hold_a_resource_twice() -> None:
    loaded = load_files([("a.yaml", GOOD), ("b.yaml", f"---\n{GOOD}")])
    (problem,) = loaded.problems
    assert str(problem.position) == "b.yaml:2:1"
    assert "VirtualService/default/reviews is also at a.yaml:1:1" in problem.message


def test_a_broken_document_does_not_hide_the_others() -> None:
    loaded = load_text(f"{GOOD}---\n{GOOD.replace('timeout', 'tiemout')}", "f")
    assert len(loaded.resources) == 1
    assert [problem.code for problem in loaded.problems] == ["unknown-field"]


def test_documents_come_back_through_the_policy_stream() -> None:
    (resource,) = load_text(GOOD, "dir/f.yaml").resources
    wire = json.loads(json.dumps(dump(resource)))
    assert wire["source"] == "dir/f.yaml:1"
    loaded = load_document(wire, wire["source"], created=3, revision=7)
    assert loaded.problems == []
    (again,) = loaded.resources
    assert (again.meta.created, again.meta.revision) == (3, 7)
    assert str(again.meta.position) == "dir/f.yaml:1:1"
    assert again.meta.document == resource.meta.document
    assert again.http[1].timeout == 1.5  # type: ignore[union-attr]


def test_documents_come_back_through_yaml() -> None:
    (resource,) = load_text(GOOD, "f").resources
    text = to_yaml(dict(resource.meta.document))
    assert load_text(text, "f").resources[0].meta.document == resource.meta.document


@pytest.mark.parametrize("value", ["010", "0o17", "1e3", "0x1F", "on", "true", "null", "1_000", ""])
def test_strings_that_look_like_something_else_stay_strings(value: str) -> None:
    document = load_text(GOOD, "f").resources[0].meta.document
    changed = {**document, "metadata": {"name": "x", "annotations": {"a": value}}}
    assert load_text(to_yaml(changed), "f").resources[0].meta.annotations == {"a": value}


@pytest.mark.parametrize(
    ("source", "position"),
    [("a.yaml:12", "a.yaml:12:1"), ("a:3:4", "a:3:4"), ("", "<policy>:1:1"), ("x", "x:1:1")],
)
def test_sources_of_the_policy_stream(source: str, position: str) -> None:
    document = load_text(GOOD, "f").resources[0].meta.document
    assert str(load_document(document, source).resources[0].meta.position) == position


def test_problems_of_the_policy_stream_keep_the_source() -> None:
    loaded = load_document({"kind": "EnvoyFilter", "apiVersion": "v1"}, "a.yaml:12")
    assert str(loaded.problems[0].position) == "a.yaml:12:1"


def test_a_document_that_nests_too_deep_is_a_problem() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"spec": deep}
    assert "too deep" in load_document(deep).problems[0].message


FRAGMENTS = st.sampled_from(
    [
        *GOOD.split(),
        "\n",
        "  ",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "---\n",
        "|\n",
        "!!int ",
    ]
)
EDITS = st.lists(
    st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), FRAGMENTS | st.text(max_size=4)),
    max_size=4,
)


@given(EDITS)
@settings(max_examples=120, deadline=None)
def test_a_mangled_file_gives_a_result(edits: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for start, length, new in edits:
        text = text[:start] + new + text[start + length :]
    loaded = load_text(text, "f")
    check(loaded.resources, Known(MeshSettings(), {}))
    assert loaded.resources or loaded.problems or not text.strip()


@given(st.text(max_size=80) | st.lists(FRAGMENTS, max_size=20).map("".join))
@settings(max_examples=120, deadline=None)
def test_any_text_gives_a_result(text: str) -> None:
    load_text(text, "f")
    load_services(text, "f")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.sampled_from(sorted(known_kinds())), JSON, JSON)
@settings(max_examples=100, deadline=None)
def test_any_document_gives_a_result(kind: str, metadata: Any, spec: Any) -> None:
    version = known_kinds()[kind][0]
    load_document({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
