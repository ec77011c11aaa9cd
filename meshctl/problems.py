"""The policy server's findings, printed as a compiler prints its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshkit.model.problems import Position, Problem, Severity


def problem_of(value: Mapping[str, Any]) -> Problem:
    """One entry of an answer's ``problems``; what it lacks is left out of the line."""
    return Problem(
        Position(
            str(value.get("source", "<server>")), value.get("line", 0), value.get("column", 0)
        ),
        str(value.get("field", "")),
        str(value.get("message", "refused")),
        str(value.get("remedy", "")),
        str(value.get("code", "invalid")),
        Severity(value.get("severity", "error")),
    )


def refused_lines(problems: Iterable[Mapping[str, Any] | str]) -> list[str]:
    """``file:line:column: error: field: message; remedy`` for each, in file order."""
    known = [problem_of(p) for p in problems if not isinstance(p, str)]
    known.sort(key=lambda problem: problem.position)
    return [*(str(p) for p in known), *(p for p in problems if isinstance(p, str))]
