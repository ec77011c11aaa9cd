"""Reading JSON bodies: typed, strict about what matters, deaf to unknown fields.

Unknown fields are ignored because an agent of the next version may send them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ca.faults import invalid

T = TypeVar("T")
_NAMES = {str: "a string", int: "a whole number", bool: "true or false", list: "a list"}


def obj(value: Any, where: str = "the body") -> Mapping[str, Any]:
    """A JSON object; Fault 400 for anything else."""
    if not isinstance(value, dict):
        raise invalid(f"{where} is not a JSON object")
    return value


def get(body: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    """A field of the given type; without a default it must be there."""
    value = body.get(name, default)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        expected = _NAMES.get(kind, kind.__name__)
        raise invalid(f"field {name!r} is {'missing' if value is None else 'not ' + expected}")
    assert isinstance(value, kind)
    return value


def number(
    body: Mapping[str, Any], name: str, low: float, high: float, default: float | None = None
) -> float:
    """A number within bounds, both included."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise invalid(f"field {name!r} must be a number from {low:g} to {high:g}")
    return value


def integer(
    body: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None
) -> int:
    """A whole number within bounds, both included."""
    value = number(body, name, low, high, default)
    if not isinstance(value, int):
        raise invalid(f"field {name!r} must be a whole number")
    return value


def objects(body: Mapping[str, Any], name: str, limit: int) -> list[Mapping[str, Any]]:
    """A list of at most ``limit`` objects."""
    return [obj(one, f"an entry of {name!r}") for one in _limited(body, name, limit)]


def strings(body: Mapping[str, Any], name: str, limit: int) -> list[str]:
    """A list of at most ``limit`` strings."""
    values = _limited(body, name, limit)
    if not all(isinstance(value, str) for value in values):
        raise invalid(f"field {name!r} must be a list of strings")
    return values


def labels(body: Mapping[str, Any], name: str = "labels") -> dict[str, str]:
    """A map of short printable strings; missing = empty."""
    value = obj(body.get(name) or {}, f"field {name!r}")
    if len(value) > 64 or not all(map(_is_short, (*value, *value.values()))):
        raise invalid(
            f"field {name!r} must map at most 64 names to values, "
            "both printable and of 256 characters at most"
        )
    return dict(value)


def _is_short(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= 256 and text.isprintable()


_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line separators, and those that turn the writing direction."""


def shown(value: Any) -> Any:
    """A JSON value that operators will look at: its texts cannot steer their terminals."""
    if isinstance(value, str):
        return _UNSHOWN.sub(" ", value)
    if isinstance(value, list):
        return [shown(one) for one in value]
    if isinstance(value, dict):
        return {shown(key): shown(one) for key, one in value.items()}
    return value


def printable(text: str, name: str) -> str:
    """``text``, which others will log and show; Fault 400 for control characters."""
    if not text.isprintable():
        raise invalid(f"field {name!r} has characters that cannot be printed")
    return text


def _limited(body: Mapping[str, Any], name: str, limit: int) -> list[Any]:
    values = get(body, name, list, [])
    if len(values) > limit:
        raise invalid(f"field {name!r} has {len(values)} entries; at most {limit}")
    return values
