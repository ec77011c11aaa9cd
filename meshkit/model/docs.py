"""Prints docs/fields.md: every field of every kind, and whether it runs.

``python -m meshkit.model.docs`` prints the page, ``--check FILE`` compares it with
the file and exits 1 where they differ.  The page is made from the tables that the
decoder runs on, so it cannot say anything else than what happens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshkit.model.decode import Field, FieldType, ListOf, MapOf, Message
from meshkit.model.kinds import KINDS, REFUSED, Kind
from meshkit.model.scalars import Enum
from meshkit.model.services import SERVICE

_INTRO = """\
# Fields

Every field of the resources that Baremesh reads: what runs in this release, and what
is refused by name ("not supported yet"). Nothing is accepted and ignored. A field that is not
listed here is unknown, and refused with a suggestion.

The page is generated: `python -m meshkit.model.docs > docs/fields.md`.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One field.  ``path``: ``http[].match[].uri``; ``runs`` False under a refused field."""

    path: str
    field: Field
    runs: bool


def rows(message: Message, prefix: str = "", runs: bool = True) -> Iterator[Row]:
    """The fields of a message and of the messages in it, depth first."""
    for field in message.fields.values():
        path = f"{prefix}{field.name}"
        here = runs and not field.later
        inner, suffix = _inner(field.type)
        yield Row(path + suffix, field, here)
        if isinstance(inner, Message):
            yield from rows(inner, f"{path}{suffix}.", here)


def _inner(type_: FieldType) -> tuple[FieldType, str]:
    """What a list or map holds, and how its path is written."""
    suffix = ""
    while isinstance(type_, ListOf | MapOf):
        suffix += "[]" if isinstance(type_, ListOf) else "{}"
        type_ = type_.item
    return type_, suffix


def _line(row: Row) -> str:
    field = row.field
    if not row.runs:
        why = field.instead if field.later else ""
        notes = [why, field.note]
        return _cells(f"`{row.path}`", "not yet", notes)
    inner, _ = _inner(field.type)
    form = "" if isinstance(inner, Message) else inner.label
    required = "required" if field.required else ""
    return _cells(f"`{row.path}`", "runs", [required, form, field.note, *_values(field)])


def _values(field: Field) -> Iterator[str]:
    inner, _ = _inner(field.type)
    if isinstance(inner, Enum):
        if inner.later:
            yield "not yet: " + ", ".join(inner.later)
        if inner.deprecated:
            yield "deprecated: " + ", ".join(inner.deprecated)


def _cells(path: str, state: str, notes: Sequence[str]) -> str:
    text = "; ".join(note for note in notes if note).replace("|", "\\|")
    return f"| {path} | {state} | {text} |"


def _table(message: Message) -> str:
    lines = ["| field | state | notes |", "|---|---|---|"]
    return "\n".join([*lines, *map(_line, rows(message))])


def _kind(kind: Kind) -> str:
    versions = ", ".join(f"`{version}`" for version in kind.api_versions)
    return f"## {kind.name}\n\n{versions}. Fields of `spec`:\n\n{_table(kind.spec)}\n"


def _refused() -> str:
    lines = [
        "## Kinds that are refused",
        "",
        "| kind | group | state | instead |",
        "|---|---|---|---|",
    ]
    for (group, name), why in REFUSED.items():
        state = "not yet" if why.ever else "not supported"
        lines.append(f"| {name} | {group or 'core'} | {state} | {why.instead} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole of docs/fields.md."""
    services = f"## services.d\n\nOne document per service of a host:\n\n{_table(SERVICE)}\n"
    return "\n".join([_INTRO, *map(_kind, KINDS.values()), services, _refused()])


def main(argv: Sequence[str]) -> int:
    if not argv:
        sys.stdout.write(page())
        return 0
    if len(argv) != 2 or argv[0] != "--check":
        sys.stderr.write("usage: python -m meshkit.model.docs [--check FILE]\n")
        return 2
    if Path(argv[1]).read_text(encoding="utf-8") == page():
        return 0
    sys.stderr.write(f"{argv[1]} is out of date: python -m meshkit.model.docs > {argv[1]}\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
