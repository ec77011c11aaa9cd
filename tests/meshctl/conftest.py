from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from meshctl.cli import cli
from meshctl.context import Operator
from meshctl.state import State

NOW = 1_800_000_000.0


class FakeApi:
    """Answers from a table, remembers the calls; an answer may be a list, one a call."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def _answer(self, path: str) -> dict[str, Any]:
        answer = self.answers[path]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        self.calls.append((path, dict(query or {})))
        return self._answer(path)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append((path, dict(body)))
        return self._answer(path)

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append((f"PUT {path}", dict(body)))
        return self._answer(path)

    def delete(self, path: str) -> dict[str, Any]:
        self.calls.append((f"DELETE {path}", {}))
        return self._answer(path)


class Ctl:
    """meshctl against a `FakeApi`; time passes only by sleeping."""

    def __init__(self) -> None:
        self.time = NOW
        self.api = FakeApi({})

    def __call__(self, *arguments: str, stdin: str = "", **answers: Any) -> Result:
        self.api = FakeApi({f"/v1/{name}": value for name, value in answers.items()})
        operator = Operator(Path("/ctx"), "ca:15012", "demo.mesh", "istio-system")
        state = State(
            connect=lambda operator: self.api,
            find=lambda explicit: operator,
            now=lambda: self.time,
            sleep=self._sleep,
        )
        return CliRunner().invoke(cli, list(arguments), obj=state, input=stdin)

    def _sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def ctl() -> Ctl:
    return Ctl()
