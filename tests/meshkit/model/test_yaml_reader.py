"""YAML as input: the core schema, positions, and the limits of limits-and-faults 4."""

from __future__ import annotations

import pytest

from meshkit.model.problems import Problem
from meshkit.model.report import Report
from meshkit.model.values import resolve
from meshkit.model.yaml_reader import MAX_ALIASES, MAX_BYTES, read


def load(text: str) -> tuple[list[object], list[Problem]]:
    report = Report()
    documents = read(text, "f.yaml", report)
    return [document.plain() for document in documents], report.problems()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("190:20:30", "190:20:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("1.2.3", "1.2.3"),
        ("10s", "10s"),
        ("-", "-"),
        (".", "."),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert str(resolve(".nan")) == "nan"


def test_positions_of_values_and_keys_count_from_one() -> None:
    report = Report()
    (document,) = read("a: 1\nb:\n  - {c: x}\n", "f.yaml", report)
    assert isinstance(document.data, dict)
    items = document.data["b"]
    assert str(items.key_position) == "f.yaml:2:1"
    assert isinstance(items.data, list)
    inner = items.data[0].data
    assert isinstance(inner, dict)
    assert str(inner["c"].position) == "f.yaml:3:9"


def test_stream_skips_empty_documents() -> None:
    documents, problems = load("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n")
    assert documents == [{"a": 1}, {"b": 2}]
    assert not problems


def test_keys_are_read_as_written() -> None:
    documents, problems = load("on: 1\n8080: x\ntrue: y\n")
    assert documents == [{"on": 1, "8080": "x", "true": "y"}]
    assert not problems


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("a: 1\na: 2\n", "f.yaml:2:1", "given twice"),
        ("a: {b: 1, b: 2}\n", "f.yaml:1:11", "given twice"),
        ("x: &a {b: 1}\ny:\n  <<: *a\n", "f.yaml:3:3", "merge keys"),
        ("? [a]\n: 1\n", "f.yaml:1:3", "key must be a string"),
        ("~: 1\n", "f.yaml:1:1", "key must be a string"),
        ("a: !!python/object:os.system x\n", "f.yaml:1:4", "tag"),
        ("a: !!binary aGk=\n", "f.yaml:1:4", "tag"),
        ("a: !!int x\n", "f.yaml:1:4", "not what its tag says"),
        ("a: !foo {b: 1}\n", "f.yaml:1:4", "tag"),
        ("a: *b\n", "f.yaml:1:4", "nothing above"),
        ("a: &a [*a]\n", "f.yaml:1:8", "nothing above"),
        ("a: [\n", "f.yaml:2:1", "not valid YAML"),
        ("a: b: c\n", "f.yaml:1:5", "not valid YAML"),
        ("\ta: 1\n", "f.yaml:1:1", "not valid YAML"),
        ("a: \x00\n", "f.yaml:1:1", "not valid YAML"),
        ("a: \ud800\n", "f.yaml:1:1", "not valid YAML"),
    ],
)
def test_refused_with_the_place(text: str, where: str, said: str) -> None:
    _, problems = load(text)
    assert said in problems[0].message
    assert str(problems[0].position) == where
    assert problems[0].remedy


def test_explicit_tags_of_the_core_schema_are_read() -> None:
    documents, problems = load("{a: !!str 5, b: !!int 5, c: ! 5, d: !!map {}}\n")
    assert documents == [{"a": "5", "b": 5, "c": "5", "d": {}}]
    assert not problems


def test_depth_is_limited() -> None:
    assert not load("[" * 64 + "]" * 64)[1]
    _, problems = load("[" * 65 + "]" * 65)
    assert "deeper than 64" in problems[0].message


def test_size_is_limited() -> None:
    documents, problems = load("# " + "x" * MAX_BYTES)
    assert not documents
    assert "1 MiB" in problems[0].message


def test_aliases_are_limited_in_number() -> None:
    assert not load("a: &a 1\nb: [" + "*a, " * MAX_ALIASES + "]\n")[1]
    _, problems = load("a: &a 1\nb: [" + "*a, " * (MAX_ALIASES + 1) + "]\n")
    assert "aliases" in problems[0].message


def test_aliases_are_limited_in_what_they_stand_for() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 9):
        laughs += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    documents, problems = load(laughs)
    assert not documents
    assert "aliases" in problems[0].message


def test_an_alias_stands_for_its_value() -> None:
    documents, problems = load("a: &x {b: [1]}\nc: *x\n")
    assert documents == [{"a": {"b": [1]}, "c": {"b": [1]}}]
    assert not problems


def test_anchors_end_with_their_document() -> None:
    _, problems = load("a: &x 1\n---\nb: *x\n")
    assert problems


def test_problems_are_bounded_and_counted() -> None:
    _, problems = load("a: 1\n" * 1000)
    assert len(problems) == 201
    assert "799 more" in problems[-1].message


def test_a_tab_is_called_a_tab() -> None:
    report = Report()
    read("metadata:\n\tname: x\n", "a.yaml", report)
    (problem,) = report.problems()
    assert str(problem).startswith("a.yaml:2:1: error: not valid YAML") and "tabs" in str(problem)
