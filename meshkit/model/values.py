"""A document as values that know where they were written.

Scalars follow YAML's core schema (1.2), which is what users of Kubernetes mean:
``on`` and ``yes`` are strings, ``0o17`` is octal, ``12:30:45`` and dates are
strings.  The text of a plain scalar is kept, for messages and for the fields
where YAML 1.1 would have read something else (``010``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from meshkit.model.problems import Position

Scalar = None | bool | int | float | str

MAX_DEPTH = 64
"""Nesting of one document; Istio's own messages stay under 12."""
MAX_DIGITS = 40
"""Longer integers are text: no field holds one, and int() is quadratic."""

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLS = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_NUMERIC_START = frozenset("+-.0123456789")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


class TooDeep(Exception):
    """A plain value nests deeper than `MAX_DEPTH`."""


class Value:
    """A scalar, a list of values or a map from string to value, with its place.

    ``text`` is what a plain scalar looked like ("" for quoted ones and
    collections).  ``key_line``/``key_column``: where the key stands whose value
    this is; of a list's item, its own.  Lines and columns count from 1.
    """

    __slots__ = ("column", "data", "key_column", "key_line", "line", "source", "text")

    def __init__(
        self,
        data: Scalar | list[Value] | dict[str, Value],
        source: str,
        line: int,
        column: int,
        text: str = "",
    ) -> None:
        self.data = data
        self.source = source
        self.line = self.key_line = line
        self.column = self.key_column = column
        self.text = text

    @property
    def position(self) -> Position:
        return Position(self.source, self.line, self.column)

    @property
    def key_position(self) -> Position:
        return Position(self.source, self.key_line, self.key_column)

    def plain(self) -> Any:
        """The same as lists, dicts and scalars, as JSON would carry it."""
        if isinstance(self.data, dict):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return self.data

    def shown(self) -> str:
        """A short rendering for messages."""
        if isinstance(self.data, dict):
            return "a mapping"
        if isinstance(self.data, list):
            return "a list"
        if isinstance(self.data, str):
            return f'"{_shorten(self.data)}"'
        return _shorten(self.text) or "null"


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def resolve(text: str) -> Scalar:
    """What a plain (unquoted) scalar means under the core schema."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text[0] not in _NUMERIC_START or len(text) > MAX_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return _float(text)
    return text


def _float(text: str) -> float:
    lower = text.lower()
    return float(lower.replace(".", "")) if lower[-1] in "fn" else float(lower)


def from_plain(data: Any, position: Position, depth: int = 0) -> Value:
    """Values from decoded JSON; all of them stand at ``position``.

    Raises `TooDeep`.  What JSON does not know is taken as its text.
    """
    if depth > MAX_DEPTH:
        raise TooDeep
    source, line, column = position.source, position.line, position.column
    if isinstance(data, Mapping):
        children = {str(key): from_plain(item, position, depth + 1) for key, item in data.items()}
        return Value(children, source, line, column)
    if isinstance(data, list | tuple):
        items = [from_plain(item, position, depth + 1) for item in data]
        return Value(items, source, line, column)
    if isinstance(data, str):
        return Value(data, source, line, column)
    if data is None or isinstance(data, bool | int | float):
        return Value(data, source, line, column, text=_json_text(data))
    return Value(str(data), source, line, column)


def _json_text(data: bool | int | float | None) -> str:
    if data is None or isinstance(data, bool):
        return {None: "null", True: "true", False: "false"}[data]
    return str(data) if isinstance(data, float) or abs(data) < 10**MAX_DIGITS else "a huge number"
