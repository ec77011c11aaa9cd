"""Collects the problems of a file, all at once, and finds near misses of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from meshkit.model.problems import Position, Problem, Severity

MAX_PROBLEMS = 200
"""Of one text: a file broken in one place often yields thousands of the same."""


class Report:
    """The problems found so far, in the order found; counts those past the limit."""

    __slots__ = ("_dropped", "_errors", "_last", "_problems")

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._errors = 0
        self._dropped = 0
        self._last: Position | None = None

    def add(self, problem: Problem) -> None:
        if problem.severity is Severity.ERROR:
            self._errors += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)
            return
        self._dropped += 1
        self._last = problem.position

    @property
    def error_count(self) -> int:
        """Errors so far, those past the limit too: compare before and after."""
        return self._errors

    def problems(self) -> list[Problem]:
        """Everything found, in the order of the text; a last one tells how many more."""
        found = sorted(self._problems, key=lambda problem: problem.position)
        if self._last is None:
            return found
        more = Problem(
            self._last,
            "",
            f"{self._dropped} more problems follow",
            "mend the ones above and check again",
            code="too-many",
            severity=Severity.ERROR if self._errors else Severity.WARNING,
        )
        return [*found, more]


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` most likely means, ignoring case, ``_`` and ``-``."""
    folded = {_fold(each): each for each in known}
    close = difflib.get_close_matches(_fold(name), folded, n=1, cutoff=0.7)
    return folded[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy: the near miss, or ``otherwise`` where nothing is near."""
    found = near(name[:100], known)
    return f'did you mean "{found}"?' if found else otherwise


def _fold(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
