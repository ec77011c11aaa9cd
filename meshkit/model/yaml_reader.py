"""YAML text → documents of positioned values, under hard limits.

Read event by event rather than composed: libyaml's composer recurses, expands
nothing but shares aliases, and keeps the last of two equal keys in silence.
Here the depth is a counter, a duplicate key is a problem, and an alias costs as
many nodes as what it stands for, so that a hundred of them cannot stand for a
billion.  Nothing raises to the caller.
"""

from __future__ import annotations

from typing import Any, Protocol

import yaml
from yaml import events

from meshkit.model.problems import Position, Problem
from meshkit.model.report import Report
from meshkit.model.values import MAX_DEPTH, Value, resolve

MAX_BYTES = 1 << 20
"""Of one text, in UTF-8: Kubernetes' own limit for an object is 1.5 MiB."""
MAX_ALIASES = 100
MAX_ALIASED_NODES = 10_000
"""Values that aliases may stand for altogether ("billion laughs")."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_COLLECTION_TAGS = {None, "!", _CORE + "map", _CORE + "seq"}


class _Mark(Protocol):
    line: int
    column: int


class _Stop(Exception):
    """The text cannot be read any further; the problem is in the report."""


class _Frame:
    """A collection under construction; ``key`` is the one that waits for its value."""

    __slots__ = ("anchor", "key", "key_mark", "start", "value", "waiting")

    def __init__(self, value: Value, anchor: str | None, start: int) -> None:
        self.value = value
        self.anchor = anchor
        self.start = start
        self.waiting = False
        self.key: str | None = None
        """None while waiting: a refused key, whose value is dropped."""
        self.key_mark = (0, 0)


def read(text: str, source: str, report: Report) -> list[Value]:
    """The documents of a stream that hold anything, up to the first syntax error."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        where = Position(source, 1, 1)
        remedy = "split it into several files"
        report.add(Problem(where, "", "the text is larger than 1 MiB", remedy, code="too-large"))
        return []
    builder = _Builder(source, report)
    try:
        builder.run(text)
    except _Stop:
        pass
    except (yaml.YAMLError, ValueError) as error:
        builder.syntax_error(error)
    return builder.documents


class _Builder:
    def __init__(self, source: str, report: Report) -> None:
        self.documents: list[Value] = []
        self._source = source
        self._report = report
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Value, int]] = {}
        self._aliases = 0
        self._aliased = 0
        self._count = 0

    def run(self, text: str) -> None:
        loader = _Loader(text)
        try:
            while (event := loader.get_event()) is not None:
                self._take(event)
        finally:
            loader.dispose()

    def _take(self, event: Any) -> None:
        kind = type(event)
        if kind is events.ScalarEvent:
            self._add(self._scalar(event), event.anchor, event.start_mark)
        elif kind is events.MappingStartEvent or kind is events.SequenceStartEvent:
            self._open(event, {} if kind is events.MappingStartEvent else [])
        elif kind is events.MappingEndEvent or kind is events.SequenceEndEvent:
            self._close(event)
        elif kind is events.AliasEvent:
            self._alias(event)
        elif kind is events.DocumentStartEvent:
            self._anchors.clear()

    def _scalar(self, event: Any) -> Value:
        mark = event.start_mark
        text: str = event.value
        tag = event.tag
        if tag != "!" and (event.implicit[0] or tag in _PLAIN_TAGS):
            data = resolve(text)
            if tag is not None and not isinstance(data, _PLAIN_TAGS.get(tag, object)):
                self._problem(mark, f'"{text[:60]}" is not what its tag says', "remove the tag")
            return Value(data, self._source, mark.line + 1, mark.column + 1, text)
        if tag not in (None, "!", _CORE + "str"):
            self._refuse_tag(event)
        return Value(text, self._source, mark.line + 1, mark.column + 1)

    def _refuse_tag(self, event: Any) -> None:
        message = f'the tag "{event.tag}" is not supported'
        self._problem(event.start_mark, message, "write plain YAML without tags")

    def _open(self, event: Any, data: list[Value] | dict[str, Value]) -> None:
        mark = event.start_mark
        if len(self._stack) >= MAX_DEPTH:
            self._problem(mark, f"nested deeper than {MAX_DEPTH} levels", "flatten it")
            raise _Stop
        if event.tag not in _COLLECTION_TAGS:
            self._refuse_tag(event)
        value = Value(data, self._source, mark.line + 1, mark.column + 1)
        self._stack.append(_Frame(value, event.anchor, self._count))

    def _close(self, event: Any) -> None:
        frame = self._stack.pop()
        # The anchor is known only now, so a collection cannot hold itself.
        self._add(frame.value, frame.anchor, event.start_mark, self._count - frame.start)

    def _alias(self, event: Any) -> None:
        mark = event.start_mark
        target = self._anchors.get(event.anchor)
        if target is None:
            self._problem(mark, f'nothing above is named "&{event.anchor}"', "write it out")
            raise _Stop
        value, size = target
        self._aliases += 1
        self._aliased += size
        if self._aliases > MAX_ALIASES or self._aliased > MAX_ALIASED_NODES:
            message = f"more than {MAX_ALIASES} aliases, or too much behind them"
            self._problem(mark, message, "write the values out")
            raise _Stop
        copy = Value(value.data, self._source, mark.line + 1, mark.column + 1, value.text)
        self._add(copy, None, mark, size)

    def _add(self, value: Value, anchor: str | None, mark: _Mark, size: int = 0) -> None:
        self._count += size + 1 if anchor is None else 1
        if anchor is not None:
            self._anchors[anchor] = (value, size + 1)
        if not self._stack:
            if value.data is not None:
                self.documents.append(value)
            return
        frame = self._stack[-1]
        holder = frame.value.data
        if isinstance(holder, list):
            holder.append(value)
        elif not frame.waiting:
            frame.waiting = True
            frame.key = self._key(value, holder, mark)
            frame.key_mark = (value.line, value.column)
        else:
            frame.waiting = False
            if frame.key is not None and isinstance(holder, dict):
                value.key_line, value.key_column = frame.key_mark
                holder[frame.key] = value

    def _key(self, value: Value, holder: Any, mark: _Mark) -> str | None:
        """The key's text (``8080`` and ``on`` are read as written), None if refused."""
        if isinstance(value.data, list | dict) or value.data is None:
            self._problem(mark, "a key must be a string", "write the name of a field", value)
            return None
        key = value.data if isinstance(value.data, str) else value.text
        if key == "<<":
            remedy = "write the merged fields out"
            self._problem(mark, 'merge keys ("<<") are not supported', remedy, value)
            return None
        if key in holder:
            first = holder[key].key_position
            remedy = f"remove one; the first is at line {first.line}"
            self._problem(mark, f'the key "{key[:60]}" is given twice', remedy, value, "duplicate")
            return None
        return key

    def _problem(
        self,
        mark: _Mark,
        message: str,
        remedy: str,
        value: Value | None = None,
        code: str = "yaml",
    ) -> None:
        here = Position(self._source, mark.line + 1, mark.column + 1)
        where = value.position if value is not None else here
        self._report.add(Problem(where, self._path(), message, remedy, code=code))

    def _path(self) -> str:
        names = [frame.key or "" for frame in self._stack[:-1] if frame.waiting]
        return ".".join(name for name in names if name)

    def syntax_error(self, error: Exception) -> None:
        mark = getattr(error, "problem_mark", None)
        where = Position(self._source, mark.line + 1, mark.column + 1) if mark else None
        said = getattr(error, "problem", None) or getattr(error, "reason", None)
        context = getattr(error, "context", None)
        parts = [part for part in (context, said) if part]
        message = "not valid YAML: " + (", ".join(map(str, parts)) or "it cannot be decoded")
        remedy = "check the indentation, quotes and characters here"
        if said == "found character that cannot start any token":
            remedy = "indent with spaces, never tabs, and quote text that begins with @ or `"
        place = where or Position(self._source, 1, 1)
        self._report.add(Problem(place, "", message, remedy, code="yaml"))


_PLAIN_TAGS: dict[str, Any] = {
    _CORE + "int": int,
    _CORE + "float": float | int,
    _CORE + "bool": bool,
    _CORE + "null": type(None),
}
