"""How a command fails: what happened, what to do next, and the exit status.

Everything that a command does not expect becomes a `Failure` here or in `api`;
click prints it and ends the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import click

from meshctl.exits import Exit


class Failure(click.ClickException):
    """``problems`` are lines in a compiler's form, printed before the message."""

    def __init__(
        self, exit_code: Exit, message: str, remedy: str = "", problems: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        # click declares it once for the class, and reads it from the instance.
        self.exit_code = int(exit_code)  # type: ignore[misc]
        self.remedy = remedy
        self.problems = tuple(problems)

    def show(self, file: IO[Any] | None = None) -> None:
        for problem in self.problems:
            click.echo(problem, err=True, file=file)
        click.echo(f"meshctl: {self.message}", err=True, file=file)
        if self.remedy:
            click.echo(f"  next: {self.remedy}", err=True, file=file)
