"""What commands print: a table for people, versioned JSON or YAML for scripts.

A script's document is an object with ``version`` (`VERSION`) and ``kind``.  Within
a version, fields are only added; one that is renamed, removed or changes its
meaning raises the version.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import click

from meshkit.model.dump import to_yaml

VERSION = 1
Format = Literal["table", "json", "yaml"]
F = TypeVar("F", bound=Callable[..., Any])

STYLES = {"ok": "green", "warn": "yellow", "bad": "red", "quiet": "dim"}
"""Names of meanings, so that no command chooses a colour."""


def format_option(command: F) -> F:
    """``-o table|json|yaml``, as the parameter ``output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="A table for people, or a versioned document for scripts.",
    )(command)


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's value with what it means (a key of `STYLES`)."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """``rows`` hold strings, numbers or `Cell`; ``empty`` is said when there are none."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | Cell]]
    title: str = ""
    empty: str = "nothing found"


def document(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The envelope of everything that a script reads."""
    return {"version": VERSION, "kind": kind, **fields}


def render_document(output: Format, kind: str, fields: Mapping[str, Any]) -> str:
    whole = document(kind, fields)
    if output == "yaml":
        return to_yaml(whole)
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def emit(output: Format, kind: str, fields: Mapping[str, Any], tables: Iterable[Table]) -> None:
    """Print the tables, or the document, as ``-o`` asks."""
    if output != "table":
        click.echo(render_document(output, kind, fields), nl=False)
        return
    for number, table in enumerate(tables):
        if number:
            click.echo()
        _print_table(table)


def _text(value: str | int | Cell) -> str:
    return value.text if isinstance(value, Cell) else str(value)


def plain_table(table: Table) -> str:
    """Aligned columns without any decoration: what pipes and files get."""
    if not table.rows:
        return table.empty
    lines = [
        [name.upper() for name in table.columns],
        *([_text(v) for v in r] for r in table.rows),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    padded = ("  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _print_table(table: Table) -> None:
    if sys.stdout.isatty() and table.rows:
        _rich_table(table)
        return
    if table.title:
        click.echo(f"{table.title}:")
    click.echo(plain_table(table))


def _rich_table(table: Table) -> None:
    # Imported here: scripts, which never see a rich table, start 50 ms sooner.
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=table.title or None, title_justify="left", box=None, pad_edge=False)
    for name in table.columns:
        shown.add_column(name.upper(), header_style="bold")
    for row in table.rows:
        shown.add_row(
            *(Text(v.text, STYLES.get(v.style, "")) if isinstance(v, Cell) else str(v) for v in row)
        )
    Console(highlight=False).print(shown)


def colour(text: str, meaning: str) -> str:
    """``text`` coloured on a terminal (never under NO_COLOR), as it is elsewhere."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    quiet = meaning == "quiet"
    return click.style(text, fg=None if quiet else STYLES.get(meaning), dim=quiet)


def age(seconds: float) -> str:
    """``95`` → ``1m35s``; the two largest units, as people say it."""
    left = int(abs(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return ("-" if seconds <= -1 else "") + "".join(parts[:2])
