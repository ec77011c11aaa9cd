"""Types of single values: strings, numbers, durations, enumerations, regexes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import re2

from meshkit.model.decode import Spot
from meshkit.model.report import did_you_mean

Check = Callable[[str, Spot], Any]
"""Reports what is wrong with a string and returns `INVALID`, or the value to use."""

MAX_STRING = 8192
"""Of any one string; a request line is not longer either."""
MAX_REGEX = 1024
"""Characters of a user's regex (Istio's validation has the same limit)."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d{1,15}(?:\.\d{0,9})?|\.\d{1,9})(ns|us|µs|ms|s|m|h)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MAX_DURATION = 100 * 365 * 86400.0
"""Seconds.  Protobuf's Duration ends at 10,000 years; a hundred are "never"."""


@dataclass(frozen=True, slots=True)
class String:
    """Text without control characters; ``check`` narrows or converts it."""

    label: str = "a string"
    check: Check | None = None
    empty: bool = False

    def decode(self, spot: Spot) -> Any:
        text = spot.value.data
        if not isinstance(text, str):
            return spot.expected(self.label, _quote_remedy(spot, self.label))
        if not text and not self.empty:
            return spot.error("must not be empty", f"give {self.label}")
        if len(text) > MAX_STRING or _CONTROL.search(text):
            return spot.error(
                "holds control characters or is longer than 8192 characters",
                f"give {self.label}",
            )
        return self.check(text, spot) if self.check else text


def _quote_remedy(spot: Spot, label: str) -> str:
    if isinstance(spot.value.data, dict | list) or not spot.value.text:
        return f"give {label}"
    return f'quote it: "{spot.value.text[:60]}"'


@dataclass(frozen=True, slots=True)
class Bool:
    label: str = "true or false"

    def decode(self, spot: Spot) -> Any:
        if isinstance(spot.value.data, bool):
            return spot.value.data
        return spot.expected(self.label, "write true or false, without quotes")


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number in a range, both ends included."""

    low: int = 0
    high: int = 2**31 - 1
    label: str = "a whole number"

    def decode(self, spot: Spot) -> Any:
        number = spot.value.data
        if isinstance(number, bool) or not isinstance(number, int):
            return spot.expected(self.label, "write a whole number, without quotes")
        if re.match(r"[-+]?0[0-9]", spot.value.text):
            # YAML 1.1 reads 010 as eight, the core schema as ten.
            return spot.error(
                f'"{spot.value.text}" is ambiguous: some readers take a leading 0 as octal',
                f"write {number}",
            )
        if not self.low <= number <= self.high:
            return spot.error(
                f"{number} is outside {self.low}..{self.high}",
                f"give a number from {self.low} to {self.high}",
            )
        return number


@dataclass(frozen=True, slots=True)
class Number:
    """Any number; only fields that do not run yet have it so far."""

    label: str = "a number"

    def decode(self, spot: Spot) -> Any:
        number = spot.value.data
        if isinstance(number, bool) or not isinstance(number, int | float):
            return spot.expected(self.label, "write a number, without quotes")
        return float(number)


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds as a float.  At least ``shortest``, in whole milliseconds, as in Istio."""

    shortest: float = 0.001
    label: str = "a duration such as 1.5s, 100ms or 1m30s"

    def decode(self, spot: Spot) -> Any:
        text = spot.value.data
        if not isinstance(text, str):
            shown = spot.value.text
            remedy = f"write {shown}s for seconds" if shown.isdigit() else f"give {self.label}"
            return spot.expected(self.label, remedy)
        seconds = parse_duration(text)
        if seconds is None:
            return spot.expected(self.label, f"give {self.label}")
        if not self.shortest <= seconds <= MAX_DURATION:
            return spot.error(
                f'"{text}" is shorter than 1ms or longer than a hundred years',
                "leave the field out for no limit",
            )
        if abs(seconds * 1000 - round(seconds * 1000)) > 1e-6:
            return spot.error(f'"{text}" is finer than a millisecond', "round it to milliseconds")
        return round(seconds, 3)


def parse_duration(text: str) -> float | None:
    """Seconds of Go's duration syntax (which includes protobuf's ``1.5s``); None if not one.

    No sign: no field of the API takes a negative one.
    """
    total, end = 0.0, 0
    if text == "0":
        return 0.0
    while end < len(text):
        part = _DURATION_PART.match(text, end)
        if part is None:
            return None
        total += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    return total if text else None


@dataclass(frozen=True, slots=True)
class Enum:
    """One of ``values`` (written → decoded); ``later`` ones are refused by name.

    ``deprecated`` values run, with a warning that names the new one.  With
    ``fold`` the case of what is written does not matter.
    """

    values: Mapping[str, Any]
    later: Mapping[str, str] = field(default_factory=dict)
    deprecated: Mapping[str, str] = field(default_factory=dict)
    fold: bool = False

    @property
    def label(self) -> str:
        return "one of " + ", ".join(v for v in self.values if v not in self.deprecated)

    def decode(self, spot: Spot) -> Any:
        text = spot.value.data
        if not isinstance(text, str):
            return spot.expected(self.label, f"write {self.label}")
        text = text.upper() if self.fold else text
        if text in self.later:
            instead = self.later[text] or f"write {self.label}"
            return spot.error(f'"{text}" is not supported yet', instead, "not-supported-yet")
        if text not in self.values:
            known = {*self.values, *self.later}
            remedy = did_you_mean(text, known, f"write {self.label}")
            return spot.error(f'unknown value "{text[:60]}"', remedy)
        if text in self.deprecated:
            spot.warn(f'"{text}" is deprecated', f"write {self.deprecated[text]}", "deprecated")
        return self.values[text]


def enum(*names: str, later: str = "", **reasons: str) -> Enum:
    """An `Enum` whose values decode to themselves; ``later``: names, apart by spaces."""
    refused = dict.fromkeys(later.split(), "")
    return Enum({name: name for name in names}, refused | reasons)


def regex(text: str, spot: Spot) -> Any:
    """An RE2 expression, as it stands, if it compiles."""
    if len(text) > MAX_REGEX:
        return spot.error(
            f"the regex has {len(text)} characters, more than {MAX_REGEX}", "shorten it"
        )
    try:
        re2.compile(text, _QUIET)
    except re2.error as error:
        return spot.error(
            f'"{text[:60]}" is not an RE2 expression: {_said(error)}',
            "RE2 has no look-around and no back-references; see its syntax page",
        )
    except Exception:  # the binding raises assorted types on odd input
        return spot.error(f'"{text[:60]}" is not an RE2 expression', "use RE2 syntax")
    return text


def _said(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


_QUIET = re2.Options()
_QUIET.log_errors = False

STRING = String()
ANY_STRING = String(empty=True)
BOOL = Bool()
INT = Int()
NUMBER = Number()
DURATION = Duration()
PORT = Int(1, 65535, "a port number, 1 to 65535")
REGEX = String("an RE2 expression", regex)
