"""What is wrong with a document: where, which field, what was expected, the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """1-based line and column in a named source (a file, ``<stdin>``, a revision)."""

    source: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


NOWHERE = Position("<none>", 0, 0)


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.  ``field`` is a path such as ``spec.http[0].route[1].weight``."""

    position: Position
    field: str
    message: str
    remedy: str
    code: str = "invalid"
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        where = f" {self.field}:" if self.field else ""
        return f"{self.position}: {self.severity}:{where} {self.message}; {self.remedy}"


def errors(problems: list[Problem]) -> list[Problem]:
    """Those that refuse the document; the rest are warnings."""
    return [p for p in problems if p.severity is Severity.ERROR]
