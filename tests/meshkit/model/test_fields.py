"""Every field of every kind either executes or is refused: none is accepted and ignored.

A field that runs is set to a value of its own, alone, and the decoded resource
must differ from the one without it.  A field that does not run must be refused
by name.  A new row in a table fails here until it has a sample.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshkit.model.decode import FieldType, ListOf, MapOf, Message
from meshkit.model.docs import Row, rows
from meshkit.model.kinds import KINDS
from meshkit.model.load import Loaded, load_document
from meshkit.model.scalars import Bool, Duration, Enum, Int, Number

HTTPS = {
    "port": {"number": 443, "protocol": "HTTPS", "name": "s"},
    "hosts": ["a"],
    "tls": {"mode": "SIMPLE", "serverCertificate": "/c", "privateKey": "/k"},
}

BASES: dict[str, dict[str, Any]] = {
    "VirtualService": {
        "hosts": ["reviews"],
        "http": [{"match": [{}], "route": [{"destination": {"host": "reviews"}}]}],
        "tls": [{"match": [{"sniHosts": ["a"]}], "route": [{"destination": {"host": "reviews"}}]}],
        "tcp": [{"match": [{}], "route": [{"destination": {"host": "reviews"}}]}],
    },
    "DestinationRule": {"host": "reviews", "subsets": [{"name": "v1", "labels": {"b": "c"}}]},
    "Gateway": {"selector": {"a": "b"}, "servers": [HTTPS]},
    "ServiceEntry": {
        "hosts": ["a.b"],
        "ports": [{"number": 80, "protocol": "HTTP", "name": "h"}],
        "resolution": "STATIC",
        "endpoints": [{"address": "10.0.0.1"}],
    },
    "WorkloadEntry": {"address": "10.0.0.1"},
    "PeerAuthentication": {"selector": {"matchLabels": {"a": "b"}}},
}

MATCH_FORMS = {"exact": "x", "prefix": "x", "regex": "x"}
POLICY = {"loadBalancer.simple": "RANDOM", "tls.mode": "DISABLE"}

SAMPLES: dict[str, dict[str, Any]] = {
    "VirtualService": {
        "hosts[]": "ratings",
        "gateways[]": "edge",
        "http[].name": "n",
        "http[].match[].name": "n",
        **{
            f"http[].match[].{field}.{form}": value
            for field in ("uri", "method", "authority")
            for form, value in MATCH_FORMS.items()
        },
        **{
            f"http[].match[].{field}{{}}.{form}": value
            for field in ("headers", "withoutHeaders", "queryParams")
            for form, value in MATCH_FORMS.items()
        },
        "http[].match[].ignoreUriCase": True,
        "http[].route[].destination.host": "ratings",
        "http[].route[].destination.subset": "v1",
        "http[].route[].destination.port.number": 80,
        "http[].route[].weight": 5,
        "http[].timeout": "1s",
        "http[].retries.attempts": 3,
        "http[].retries.perTryTimeout": "1s",
        "http[].retries.retryOn": "5xx",
        "tls[].match[].sniHosts[]": "reviews",
        **{
            f"{kind}[].{path}": value
            for kind in ("tls", "tcp")
            for path, value in {
                "match[].port": 80,
                "match[].gateways[]": "mesh",
                "route[].destination.host": "ratings",
                "route[].destination.subset": "v1",
                "route[].destination.port.number": 80,
                "route[].weight": 5,
            }.items()
        },
        **{
            f"{place}headers.{side}.{operation}": "v"
            for place in ("http[].", "http[].route[].")
            for side in ("request", "response")
            for operation in ("set{}", "add{}", "remove[]")
        },
    },
    "DestinationRule": {
        "host": "ratings",
        **{f"trafficPolicy.{path}": value for path, value in POLICY.items()},
        **{f"subsets[].trafficPolicy.{path}": value for path, value in POLICY.items()},
        "subsets[].name": "v2",
        "subsets[].labels{}": "y",
    },
    "Gateway": {
        "selector{}": "y",
        "servers[].port.number": 444,
        "servers[].port.name": "t",
        "servers[].port.protocol": "HTTP",
        "servers[].bind": "127.0.0.1",
        "servers[].hosts[]": "b",
        "servers[].name": "n",
        "servers[].tls.mode": "PASSTHROUGH",
        "servers[].tls.httpsRedirect": True,
        "servers[].tls.serverCertificate": "/other",
        "servers[].tls.privateKey": "/other",
        "servers[].tls.minProtocolVersion": "TLSV1_3",
    },
    "ServiceEntry": {
        "hosts[]": "c.d",
        "addresses[]": "10.9.0.0/16",
        "ports[].number": 81,
        "ports[].name": "i",
        "ports[].protocol": "TCP",
        "ports[].targetPort": 81,
        "location": "MESH_INTERNAL",
        "endpoints[].address": "10.0.0.2",
        "endpoints[].ports{}": 81,
        "endpoints[].labels{}": "y",
        "endpoints[].weight": 2,
        "endpoints[].serviceAccount": "sa",
        "workloadSelector.labels{}": "y",
    },
    "WorkloadEntry": {
        "address": "10.0.0.2",
        "ports{}": 81,
        "labels{}": "y",
        "weight": 2,
        "serviceAccount": "sa",
    },
    "PeerAuthentication": {
        "selector.matchLabels{}": "y",
        "mtls.mode": "STRICT",
        "portLevelMtls{}.mode": "STRICT",
    },
}

WITH: dict[str, dict[str, Any]] = {
    "http[].retries.perTryTimeout": {"http[].retries.attempts": 2},
    "http[].retries.retryOn": {"http[].retries.attempts": 2},
    "servers[].port.protocol": {"servers[].tls": {}},
    "servers[].tls.mode": {
        "servers[].tls.serverCertificate": None,
        "servers[].tls.privateKey": None,
    },
    "workloadSelector.labels{}": {"endpoints": None},
    "endpoints[].ports{}": {"ports[].name": "key"},
}
"""What a field needs beside it to be legal; the comparison has it on both sides."""

KEYS = {"portLevelMtls{}.mode": "8080"}

ONE_VALUE = {
    ("ServiceEntry", "resolution"),
}
"""Fields with a single value so far, which the base must give: see the test below."""


def put(document: dict[str, Any], path: str, value: Any, key: str = "key") -> None:
    """Set ``a[].b{}.c``: of lists the first item, of maps the entry ``key``."""
    node: Any = document
    steps = [step for part in path.split(".") for step in re.findall(r"\w+|\[\]|\{\}", part)]
    names: list[Any] = [{"[]": 0, "{}": key}.get(step, step) for step in steps]
    for name, following in zip(names, [*names[1:], None], strict=True):
        if following is None:
            fresh = value
        else:
            fresh = [{}] if following == 0 else {}
        if isinstance(node, list):
            node[0] = value if following is None else node[0]
        elif following is None or node.get(name) is None:
            node[name] = fresh
        node = node[name]


def drop(document: dict[str, Any], path: str) -> None:
    """Remove ``a[].b.c``, of the first item of lists."""
    *way, last = path.split(".")
    node: Any = document
    for step in way:
        node = node[step.removesuffix("[]")]
        node = node[0] if step.endswith("[]") else node
    node.pop(last)


def load(kind: str, spec: dict[str, Any]) -> Loaded:
    version = KINDS[kind].api_versions[0]
    return load_document(
        {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}, "f:1"
    )


def every_row() -> Iterator[tuple[str, Row]]:
    for name, kind in KINDS.items():
        for row in rows(kind.spec):
            yield name, row


def leaf(type_: FieldType) -> FieldType:
    while isinstance(type_, ListOf | MapOf):
        type_ = type_.item
    return type_


RUNNING = [
    (kind, row.path)
    for kind, row in every_row()
    if row.runs and not isinstance(leaf(row.field.type), Message) and row.path != "exportTo"
]
REFUSED = [(kind, row) for kind, row in every_row() if not row.runs]


def documents(kind: str, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The spec without the field and with it."""
    before = copy.deepcopy(BASES[kind])
    for other, value in WITH.get(path, {}).items():
        if value is None:
            drop(before, other)
        else:
            put(before, other, value)
    after = copy.deepcopy(before)
    put(after, path, SAMPLES[kind][path], KEYS.get(path, "key"))
    return before, after


@pytest.mark.parametrize(("kind", "path"), [pair for pair in RUNNING if pair not in ONE_VALUE])
def test_a_field_that_runs_changes_the_resource(kind: str, path: str) -> None:
    before, after = documents(kind, path)
    old, new = load(kind, before), load(kind, after)
    assert new.ok, new.problems
    if not old.resources:
        assert path in (
            *("servers[].port.protocol", "servers[].tls.mode", "workloadSelector.labels{}"),
        )
        return
    assert replace(new.resources[0], meta=old.resources[0].meta) != old.resources[0]


@pytest.mark.parametrize(("kind", "path"), sorted(ONE_VALUE))
def test_a_field_with_one_value_is_refused_when_absent(kind: str, path: str) -> None:
    spec = copy.deepcopy(BASES[kind])
    drop(spec, path)
    assert "not-supported-yet" in [problem.code for problem in load(kind, spec).problems]


def sample(type_: FieldType) -> Any:
    """A legal value: a later field is refused for its name, not for its value."""
    if isinstance(type_, ListOf):
        return [sample(type_.item)]
    if isinstance(type_, MapOf):
        return {"key": sample(type_.item)}
    if isinstance(type_, Enum):
        return next(iter(type_.values))
    plain = {Bool: True, Int: 1, Number: 1.5, Duration: "1s", Message: {}}
    return plain.get(type(type_), {} if isinstance(type_, Message) else "x")


@pytest.mark.parametrize(
    ("kind", "row"), REFUSED, ids=[f"{kind}.{row.path}" for kind, row in REFUSED]
)
def test_a_field_that_does_not_run_is_refused_by_name(kind: str, row: Row) -> None:
    spec = copy.deepcopy(BASES[kind])
    put(spec, re.sub(r"(\[\]|\{\})+$", "", row.path), sample(row.field.type))
    found = [each for each in load(kind, spec).problems if each.code == "not-supported-yet"]
    assert found
    plain = re.sub(r"\[\]|\{\}", "", row.path)
    refused = {re.sub(r"\[\w+\]", "", problem.field).removeprefix("spec.") for problem in found}
    assert any(plain == path or plain.startswith(f"{path}.") for path in refused)
    assert all(problem.remedy for problem in found)


def test_every_running_field_has_a_sample_and_every_sample_a_field() -> None:
    sampled = {(kind, path) for kind, paths in SAMPLES.items() for path in paths}
    assert sampled | ONE_VALUE == set(RUNNING)


def test_export_to_runs_only_as_everywhere() -> None:
    base = BASES["VirtualService"]
    assert load("VirtualService", {**base, "exportTo": ["*"]}).ok
    for value in (["."], ["*", "a"], ["~"], "*"):
        assert not load("VirtualService", {**base, "exportTo": value}).ok


def test_the_tables_hold_every_field_of_istio() -> None:
    lines = (Path(__file__).parent / "istio_fields.txt").read_text().splitlines()
    theirs = {line for line in lines if line and not line.startswith("#")}
    ours = {f"{kind} {re.sub(r'[][{}]', '', row.path)}" for kind, row in every_row()}
    assert theirs - ours == set()
    assert ours - theirs == {"VirtualService http.redirect.prefixRewrite"}
