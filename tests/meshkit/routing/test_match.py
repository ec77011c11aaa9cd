"""Route selection on bytes (istio-semantics 1.2), from tests/vectors/routing/match.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.model.resources import HTTPMatch, StringMatch
from meshkit.routing.match import RegexError, compile_routes, full_match, select
from meshkit.snapshot.codec import decode
from meshkit.snapshot.types import Route

VECTORS = Path(__file__).parents[2] / "vectors" / "routing" / "match.json"
CASES = json.loads(VECTORS.read_text())
PREFIX = HTTPMatch(uri=StringMatch("prefix", "/a"))
USER = HTTPMatch(headers=(("end-user", StringMatch("exact", "x")),))
GET = HTTPMatch(method=StringMatch("exact", "GET"))


def ask(compiled_from: list[Route], request: dict[str, Any]) -> Route | None:
    headers = [(name.encode(), value.encode()) for name, value in request.get("headers", [])]
    return select(
        compile_routes(compiled_from),
        request.get("method", "GET").encode(),
        request["target"].encode(),
        request.get("authority", "reviews").encode(),
        headers,
    )


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_vectors(case: dict[str, Any]) -> None:
    route = Route("r", (decode(HTTPMatch, json.dumps(case["match"]).encode()),), ())
    for request in case["requests"]:
        expected = route if request["matches"] else None
        assert ask([route], request) is expected, request


def test_blocks_of_a_rule_or() -> None:
    route = Route("r", (PREFIX, USER), ())
    assert ask([route], {"target": "/a"}) is route
    assert ask([route], {"target": "/b", "headers": [["end-user", "x"]]}) is route
    assert ask([route], {"target": "/b"}) is None


def test_the_first_rule_wins() -> None:
    first, second = Route("1", (PREFIX,), ()), Route("2", (PREFIX, USER), ())
    assert ask([first, second], {"target": "/a"}) is first


def test_a_rule_without_match_ends_the_list() -> None:
    everything, unreachable = Route("all", (), ()), Route("2", (PREFIX,), ())
    compiled = compile_routes([everything, unreachable])
    assert compiled.always is everything
    assert ask([everything, unreachable], {"target": "/a"}) is everything


def test_no_routes_no_verdict() -> None:
    assert ask([], {"target": "/"}) is None


def test_a_bad_pattern_is_named() -> None:
    with pytest.raises(RegexError, match=r"a\("):
        full_match("a(")


BLOCKS = st.lists(st.sampled_from([PREFIX, USER, GET, HTTPMatch()]), max_size=3).map(tuple)


@given(st.lists(BLOCKS, max_size=5), st.sampled_from(["/a", "/b"]), st.sampled_from("xy"))
def test_every_request_gets_the_first_verdict_of_the_definition(
    rules: list[tuple[HTTPMatch, ...]], target: str, user: str
) -> None:
    routes = [Route(str(index), blocks, ()) for index, blocks in enumerate(rules)]
    taken = {PREFIX: target == "/a", USER: user == "x", GET: True, HTTPMatch(): True}
    expected = next((r for r in routes if not r.match or any(taken[b] for b in r.match)), None)
    assert ask(routes, {"target": target, "headers": [["end-user", user]]}) is expected
