"""What a call can be refused with: one exception, one rendering.

Every fault names what is wrong, whose turn it is, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshkit.model.problems import Problem


class Fault(Exception):
    """An HTTP answer of 4xx or 5xx.  ``code`` is stable, for programs."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        remedy: str = "",
        problems: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.remedy = remedy
        self.problems = list(problems)

    def to_json(self) -> dict[str, Any]:
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "remedy": self.remedy,
                "problems": self.problems,
            }
        }


def invalid(message: str, remedy: str = "see docs/control-plane.md for the call's form") -> Fault:
    """400: the call itself is malformed."""
    return Fault(400, "invalid_request", message, remedy)


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """``source``, ``line`` and ``column`` are where; ``field`` the path in the document."""
    return {
        "source": problem.position.source,
        "line": problem.position.line,
        "column": problem.position.column,
        "field": problem.field,
        "message": problem.message,
        "remedy": problem.remedy,
        "code": problem.code,
        "severity": str(problem.severity),
        "text": str(problem),
    }
