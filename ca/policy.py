"""Applied policy: judged at the door, kept as numbered revisions.

A bundle is judged as the mesh would be with it: what it brings replaces what is
there, and the whole is checked across resources.  Faults that were there before
do not stand in the way of a change that has nothing to do with them.  What does
not differ is not written; a bundle in which nothing differs makes no revision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from ca.faults import Fault, problem_to_json
from ca.store.base import Change, Conflict, Document, Resource, Revision, Store
from meshkit.model.check import Known, check
from meshkit.model.load import load_document, load_files
from meshkit.model.problems import Problem, errors
from meshkit.model.resources import Resource as Typed

MAX_DOCUMENTS = 1000
MAX_MESSAGE = 1000
ATTEMPTS = 5
"""Another process on the same store may commit between our reading and our writing."""

FIELDS = ("apiVersion", "kind", "metadata", "spec")


@dataclass(frozen=True, slots=True)
class Outcome:
    """``changes`` has every resource of the bundle, the unchanged ones too."""

    revision: int
    changes: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "changes": [{"key": key, "change": change} for key, change in self.changes],
            "problems": [problem_to_json(problem) for problem in self.problems],
        }


@dataclass(slots=True)
class Policy:
    """``known`` gives the services of the mesh; ``changed`` is called after a new revision."""

    store: Store
    known: Callable[[], Known]
    changed: Callable[[], None]
    head: int = 0
    _typed: dict[tuple[str, int], Typed | None] = field(default_factory=dict)
    _lock: trio.Lock = field(default_factory=trio.Lock)

    async def open(self) -> None:
        """Read where the store is."""
        self.head = await self.store.head()

    async def apply(
        self,
        sources: Sequence[tuple[str, str]],
        author: str,
        now: float,
        *,
        message: str = "",
        expected: int | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Apply (source, YAML text) pairs as one revision; Fault 409 or 422."""
        # In a thread, as the judgement below: a large bundle takes a second, and pings must go out.
        loaded = await trio.to_thread.run_sync(load_files, sources)
        _refuse(errors(loaded.problems))
        if not loaded.resources:
            raise Fault(422, "empty", "the documents hold no resource", "name files with resources")
        wanted = {resource.meta.key: resource for resource in loaded.resources}
        warnings = [p for p in loaded.problems if p not in errors(loaded.problems)]

        def plan(applied: Mapping[str, Resource], number: int) -> _Plan:
            return _plan_apply(applied, wanted, number)

        return await self._change(plan, author, now, message, expected, dry_run, warnings)

    async def delete(
        self, keys: Sequence[str], author: str, now: float, *, message: str = ""
    ) -> Outcome:
        """Delete resources by key as one revision; Fault 404 where one is not applied."""

        def plan(applied: Mapping[str, Resource], number: int) -> _Plan:
            return _plan_delete(applied, keys)

        return await self._change(plan, author, now, message, None, False, ())

    async def _change(
        self,
        plan: Callable[[Mapping[str, Resource], int], _Plan],
        author: str,
        now: float,
        message: str,
        expected: int | None,
        dry_run: bool,
        warnings: Iterable[Problem],
    ) -> Outcome:
        async with self._lock:
            for _ in range(ATTEMPTS):
                base, applied = await self._read(expected)
                planned = plan(applied, base + 1)
                found = await trio.to_thread.run_sync(self._judge, applied, planned)
                changes, problems = planned.changes, (*warnings, *found)
                if dry_run or not changes:
                    return Outcome(base, planned.report, problems)
                try:
                    made = await self.store.commit(base, author, now, message, changes)
                except Conflict:
                    continue
                self.head = made.number
                self.changed()
                return Outcome(made.number, planned.report, problems)
        raise Fault(409, "busy", "others change the policy at the same time", "try again")

    async def _read(self, expected: int | None) -> tuple[int, dict[str, Resource]]:
        base = await self.store.head()
        if expected is not None and expected != base:
            raise Fault(
                409,
                "revision_conflict",
                f"expected revision {expected}, the mesh is at {base}",
                "look at what changed (meshctl history), then apply again",
            )
        return base, {resource.key: resource for resource in await self.store.resources()}

    def _judge(self, applied: Mapping[str, Resource], planned: _Plan) -> list[Problem]:
        """Warnings of the whole that the change brings; Fault 422 for new errors."""
        before = self._decode(applied)
        after = [one for one in before if one.meta.key not in planned.touched]
        after += planned.added
        known = self.known()
        old = {_essence(problem) for problem in check(before, known)}
        new = [p for p in check(after, known) if _essence(p) not in old or _is_of(p, planned)]
        _refuse(errors(new))
        return new

    def _decode(self, applied: Mapping[str, Resource]) -> list[Typed]:
        """The applied resources, typed; each version is decoded once."""
        versions = {(key, resource.revision): resource for key, resource in applied.items()}
        self._typed = {
            version: self._typed[version] if version in self._typed else _typed(resource)
            for version, resource in versions.items()
        }
        return [one for one in self._typed.values() if one is not None]


@dataclass(frozen=True, slots=True)
class _Plan:
    changes: tuple[Change, ...]
    report: tuple[tuple[str, str], ...]
    added: tuple[Typed, ...] = ()
    touched: frozenset[str] = frozenset()


def _plan_apply(applied: Mapping[str, Resource], wanted: Mapping[str, Typed], number: int) -> _Plan:
    changes: list[Change] = []
    report = []
    for key, resource in wanted.items():
        document, old = stored_document(resource.meta.document), applied.get(key)
        if old is not None and old.document == document:
            report.append((key, "unchanged"))
            continue
        source = str(resource.meta.position)
        changes.append(Change(key, "configured" if old else "created", document, source))
        report.append((key, changes[-1].kind))
    aged = (
        _aged(resource, applied[key].created if key in applied else number)
        for key, resource in wanted.items()
    )
    return _Plan(tuple(changes), tuple(report), tuple(aged), frozenset(wanted))


def _aged(resource: Typed, created: int) -> Typed:
    """The resource as it will be: "the oldest wins" counts from its creation."""
    return replace(resource, meta=replace(resource.meta, created=created))


def _plan_delete(applied: Mapping[str, Resource], keys: Sequence[str]) -> _Plan:
    missing = [key for key in keys if key not in applied]
    if missing:
        raise Fault(
            404,
            "not_found",
            f"not applied: {', '.join(missing[:10])}; nothing was deleted",
            "`meshctl get all -A` shows what is; write keys as Kind/namespace/name",
        )
    unique = dict.fromkeys(keys)
    changes = tuple(Change(key, "deleted", None) for key in unique)
    return _Plan(changes, tuple((key, "deleted") for key in unique), (), frozenset(unique))


def stored_document(document: Mapping[str, Any]) -> Document:
    """The document as it is kept: what is JSON of it, its namespace written out."""
    kept = {name: document[name] for name in FIELDS if name in document}
    kept["metadata"] = {"namespace": "default", **kept["metadata"]}
    plain: Document = json.loads(json.dumps(kept, default=str))
    return plain


def to_wire(resource: Resource) -> dict[str, Any]:
    """A resource as streams and answers carry it."""
    return {
        **resource.document,
        "source": resource.source,
        "created": resource.created,
        "revision": resource.revision,
        "author": resource.author,
        "time": resource.time,
    }


def revision_to_json(revision: Revision, content: bool = False) -> dict[str, Any]:
    """``content``: with the documents that were applied."""
    changes = []
    for change in revision.changes:
        one: dict[str, Any] = {"key": change.key, "change": change.kind}
        if content:
            one |= {"document": change.document, "source": change.source}
        changes.append(one)
    return {
        "revision": revision.number,
        "author": revision.author,
        "time": revision.time,
        "message": revision.message,
        "changes": changes,
    }


def _typed(resource: Resource) -> Typed | None:
    """None for what this release no longer accepts: it was valid when it was applied."""
    loaded = load_document(
        dict(resource.document), resource.source, resource.created, resource.revision
    )
    return loaded.resources[0] if loaded.resources else None


def _essence(problem: Problem) -> tuple[str, str, str, str]:
    """A problem without its line: stored documents have none."""
    return problem.position.source, problem.field, problem.message, problem.code


def _is_of(problem: Problem, planned: _Plan) -> bool:
    return any(one.meta.position.source == problem.position.source for one in planned.added)


def _place(problem: Problem) -> tuple[str, int, int, str]:
    at = problem.position
    return at.source, at.line, at.column, problem.field


def _refuse(wrong: Sequence[Problem]) -> None:
    if wrong:
        many = "problems" if len(wrong) > 1 else "problem"
        raise Fault(
            422,
            "invalid",
            f"{len(wrong)} {many}; nothing was changed",
            "mend them and apply again",
            [problem_to_json(problem) for problem in sorted(wrong, key=_place)],
        )
