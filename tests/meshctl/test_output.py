from __future__ import annotations

import json

import pytest

from meshctl.output import VERSION, Cell, Table, age, colour, plain_table, render_document


def test_json_has_the_version_first() -> None:
    text = render_document("json", "Status", {"revision": 7})
    assert list(json.loads(text)) == ["version", "kind", "revision"]
    assert json.loads(text)["version"] == VERSION


def test_yaml_carries_the_same() -> None:
    assert render_document("yaml", "Status", {"x": ["a", "on"]}) == (
        "version: 1\nkind: Status\nx:\n  - a\n  - 'on'\n"
    )


def test_a_plain_table_is_aligned_and_not_padded() -> None:
    table = Table(("host", "state"), [("a", Cell("connected", "ok")), ("gateway", "away")])
    assert plain_table(table) == "HOST     STATE\na        connected\ngateway  away"


def test_an_empty_table_says_so() -> None:
    assert plain_table(Table(("host",), [], empty="no host has joined")) == "no host has joined"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (95, "1m35s"),
        (3600, "1h"),
        (90061, "1d1h"),
        (-5, "-5s"),
        (-0.5, "0s"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_no_colour_where_nobody_looks() -> None:
    assert colour("x", "ok") == "x"
