"""From text, or from what the policy stream carries, to resources and problems.

Nothing here raises for what the text holds: a file that cannot be read is a
problem like any other, and every problem of a file is reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshkit.model.envelope import Origin, decode_document
from meshkit.model.kinds import known_kinds
from meshkit.model.problems import Position, Problem, errors
from meshkit.model.report import Report
from meshkit.model.resources import Resource
from meshkit.model.services import LoadedServices, load_service_files, load_services
from meshkit.model.values import TooDeep, Value, from_plain
from meshkit.model.yaml_reader import read

__all__ = [
    "Loaded",
    "LoadedServices",
    "dump",
    "known_kinds",
    "load_document",
    "load_files",
    "load_service_files",
    "load_services",
    "load_text",
]

_SOURCE = re.compile(r"(.*?):(\d{1,9})(?::(\d{1,9}))?", re.DOTALL)
_LISTS = tuple(f"{name}List" for name in known_kinds())


@dataclass(frozen=True, slots=True)
class Loaded:
    """Resources without errors, in the order written, and everything found."""

    resources: tuple[Resource, ...]
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """No error (warnings may be there)."""
        return not errors(self.problems)


def load_text(text: str, source: str) -> Loaded:
    """The documents of one YAML text.  ``source`` names it in positions."""
    return load_files([(source, text)])


def load_files(files: Iterable[tuple[str, str]]) -> Loaded:
    """Several (source, text) at once; one resource in two places is an error."""
    resources: list[Resource] = []
    problems: list[Problem] = []
    for source, text in files:
        report = Report()
        for document in _unlisted(read(text, source, report)):
            resource = decode_document(document, report, Origin())
            if resource is not None:
                resources.append(resource)
        problems += report.problems()
    return Loaded(tuple(resources), problems + _duplicates(resources))


def load_document(
    document: Mapping[str, Any], source: str = "", created: int = 0, revision: int = 0
) -> Loaded:
    """One resource as the policy stream carries it.

    ``source`` is ``file:line`` of where it was written; other keys of the wire
    form (created, author, …) are the caller's to pass or to drop.
    """
    report = Report()
    where = _position(source)
    kept = {key: document[key] for key in _ENVELOPE if key in document}
    try:
        value = from_plain(kept, where)
    except TooDeep:
        problem = Problem(where, "", "nested too deep", "flatten it", code="too-large")
        return Loaded((), [problem])
    resource = decode_document(value, report, Origin(created, revision))
    return Loaded((resource,) if resource is not None else (), report.problems())


def dump(resource: Resource) -> dict[str, Any]:
    """What `load_document` takes back: apiVersion, kind, metadata, spec, source."""
    meta = resource.meta
    where = meta.position
    return {**meta.document, "source": f"{where.source}:{where.line}"}


_ENVELOPE = ("apiVersion", "kind", "metadata", "spec")


def _position(source: str) -> Position:
    found = _SOURCE.fullmatch(source)
    if found is None:
        return Position(source or "<policy>", 1, 1)
    return Position(found[1], int(found[2]), int(found[3] or 1))


def _unlisted(documents: Iterable[Value]) -> Iterable[Value]:
    """Documents, with the items of ``kind: List`` (what kubectl prints) one by one."""
    for document in documents:
        data = document.data if isinstance(document.data, dict) else {}
        kind, items = data.get("kind"), data.get("items")
        listed = kind is not None and kind.data in ("List", *_LISTS)
        if listed and items is not None and isinstance(items.data, list):
            yield from items.data
        else:
            yield document


def _duplicates(resources: Iterable[Resource]) -> list[Problem]:
    first: dict[str, Position] = {}
    found = []
    for resource in resources:
        meta = resource.meta
        if meta.key in first:
            message = f"{meta.key} is also at {first[meta.key]}"
            problem = Problem(meta.position, "metadata.name", message, "remove one", "duplicate")
            found.append(problem)
        first.setdefault(meta.key, meta.position)
    return found
