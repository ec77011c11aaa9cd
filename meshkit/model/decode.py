"""The decoding layer: messages are tables of fields, and the table is the decoder.

A `Message` lists every field that Istio's message has.  A field either runs (it
has a type that decodes it) or comes later (it is refused by name).  Nothing else
is accepted, and a message is built only from what its table decoded, so a field
cannot be accepted and then forgotten; docs/fields.md is printed from the same
tables.

Problems do not stop the decoding: a field that is wrong is reported and left
out, and the resource is dropped at the end when there was any error.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from meshkit.model.problems import Position, Problem, Severity
from meshkit.model.report import Report, did_you_mean, near
from meshkit.model.values import Value


class Invalid:
    """The decoded form of what was reported as wrong."""


INVALID: Final = Invalid()


class Spot:
    """A value, its field path, and where its problems go."""

    __slots__ = ("path", "report", "value")

    def __init__(self, value: Value, path: str, report: Report) -> None:
        self.value = value
        self.path = path
        self.report = report

    @property
    def position(self) -> Position:
        return self.value.position

    def child(self, key: str, value: Value) -> Spot:
        return Spot(value, f"{self.path}.{key}" if self.path else key, self.report)

    def entry(self, key: str, value: Value) -> Spot:
        """The value of a map whose keys are the user's, such as header names."""
        return Spot(value, f"{self.path}[{key}]", self.report)

    def item(self, index: int, value: Value) -> Spot:
        return Spot(value, f"{self.path}[{index}]", self.report)

    def error(
        self, message: str, remedy: str, code: str = "invalid", at: Position | None = None
    ) -> Invalid:
        self.report.add(Problem(at or self.position, self.path, message, remedy, code))
        return INVALID

    def warn(self, message: str, remedy: str, code: str = "suspicious") -> None:
        problem = Problem(self.position, self.path, message, remedy, code, Severity.WARNING)
        self.report.add(problem)

    def expected(self, what: str, remedy: str) -> Invalid:
        return self.error(f"expected {what}, got {self.value.shown()}", remedy, "type")

    def not_yet(self, what: str, instead: str) -> Invalid:
        remedy = instead or "remove it"
        message = f"{what} is not supported yet"
        return self.error(message, remedy, "not-supported-yet", self.value.key_position)


class FieldType(Protocol):
    """How one value is decoded.  ``label`` names the expected form, for people."""

    @property
    def label(self) -> str: ...

    def decode(self, spot: Spot) -> Any:
        """The typed value, or `INVALID` after reporting why."""
        ...


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: it runs, or it comes later (``later``).

    ``instead`` of a later field: what to write today, as a remedy.  ``note`` is
    for the documentation's table.
    """

    name: str
    type: FieldType
    later: bool = False
    required: bool = False
    instead: str = ""
    note: str = ""


class Parts:
    """The decoded fields of one message, given to its build function."""

    __slots__ = ("_decoded", "_meant", "spot")

    def __init__(
        self, spot: Spot, decoded: Mapping[str, Any], meant: Container[str | None]
    ) -> None:
        self.spot = spot
        self._decoded = decoded
        self._meant = meant

    def get(self, name: str, default: Any = None) -> Any:
        """The decoded field; ``default`` where absent, null or already reported."""
        return self._decoded.get(name, default)

    def given(self, name: str) -> bool:
        """Written and not null, whether right, wrong or misspelt."""
        return name in self._meant or is_given(self.spot.value, name)

    def at(self, name: str) -> Spot:
        """Where the field is; where it would be, if absent."""
        data = self.spot.value.data
        value = data.get(name) if isinstance(data, dict) else None
        return self.spot.child(name, value or self.spot.value)


def is_given(value: Value, name: str) -> bool:
    """Whether a mapping has the key, with something other than null."""
    data = value.data
    return isinstance(data, dict) and name in data and data[name].data is not None


def _as_decoded(parts: Parts) -> Parts:
    return parts


class Message:
    """A table of fields and the function that builds the typed value from them.

    The function is called only when every required field was decoded; it reports
    what concerns several fields at once and may return `INVALID`.
    """

    def __init__(
        self,
        name: str,
        fields: Iterable[Field],
        build: Callable[[Parts], Any] = lambda parts: parts,
    ) -> None:
        self.name = name
        self.fields: Mapping[str, Field] = {field.name: field for field in fields}
        self.build = build
        self._required = tuple(field for field in self.fields.values() if field.required)

    @property
    def label(self) -> str:
        return "a mapping"

    def decode(self, spot: Spot) -> Any:
        data = spot.value.data
        if not isinstance(data, dict):
            return spot.expected(f"a mapping ({self.name})", f"give {self._names()}")
        decoded: dict[str, Any] = {}
        for key, value in data.items():
            result = self._field(key, spot.child(key, value))
            if result is not INVALID:
                decoded[key] = result
        # One mistake, one problem: what a misspelt key means is not also missing.
        unknown = [key for key in data if key not in self.fields]
        parts = Parts(spot, decoded, {near(key[:100], self.fields) for key in unknown})
        whole = [self._present(field, parts) for field in self._required]
        return self.build(parts) if all(whole) else INVALID

    def _present(self, field: Field, parts: Parts) -> bool:
        """Whether a required field was decoded; reports where it was not even written."""
        if parts.get(field.name) is not None:
            return True
        if not parts.given(field.name):
            remedy = f"add {field.name}: {field.type.label}"
            parts.spot.child(field.name, parts.spot.value).error("is required", remedy, "required")
        return False

    def _field(self, key: str, spot: Spot) -> Any:
        field = self.fields.get(key)
        if field is None:
            remedy = did_you_mean(key, self.fields, f"known here: {self._names()}")
            message = f'unknown field "{key[:60]}" of {self.name}'
            return spot.error(message, remedy, "unknown-field", spot.value.key_position)
        if spot.value.data is None and not isinstance(field.type, AcceptsNull):
            return INVALID
        if field.later:
            return spot.not_yet(f'"{key}"', field.instead or f'remove "{key}"')
        return field.type.decode(spot)

    def _names(self) -> str:
        return ", ".join(name for name, field in self.fields.items() if not field.later)


class AcceptsNull:
    """Mixed into types for which null says something (a header's presence)."""


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list; decoded as a tuple without the invalid items."""

    item: FieldType
    at_least: int = 0

    @property
    def label(self) -> str:
        return f"a list of {self.item.label}"

    def decode(self, spot: Spot) -> Any:
        data = spot.value.data
        if not isinstance(data, list):
            return spot.expected("a list", 'write the items with "- " before each')
        if len(data) < self.at_least:
            return spot.error("must not be empty", f"give {self.item.label}", "required")
        found = [self.item.decode(spot.item(i, value)) for i, value in enumerate(data)]
        return tuple(item for item in found if item is not INVALID)


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map with the user's own keys; decoded as a dict without the invalid entries.

    ``key`` reports a wrong key at its spot and returns the key to use, or None.
    """

    item: FieldType
    key: Callable[[str, Spot], Any | None] = lambda key, spot: key

    @property
    def label(self) -> str:
        return f"a mapping of {self.item.label}"

    def decode(self, spot: Spot) -> Any:
        data = spot.value.data
        if not isinstance(data, dict):
            return spot.expected("a mapping", 'write "key: value" pairs')
        result = {}
        for name, value in data.items():
            entry = spot.entry(name, value)
            key = self.key(name, entry)
            item = self.item.decode(entry)
            if key is None or item is INVALID:
                continue
            if key in result:
                entry.error(f'the key "{key}" is given twice', "remove one", "duplicate")
            result[key] = item
        return result


def later(name: str, type_: FieldType, instead: str = "", note: str = "") -> Field:
    """A field of Istio's that this release refuses by name."""
    return Field(name, type_, later=True, instead=instead, note=note)
