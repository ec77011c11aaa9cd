"""Istio's Headers: operations on the headers of requests and responses.

Two places of a header operation mean something else than they say.  Setting Host
rewrites the authority (and comes with rewrites), removing it does nothing.  And
Envoy expands ``%COMMANDS%`` in values: those are refused, ``%%`` is a percent sign.
"""

from __future__ import annotations

import re
from typing import Any

from meshkit.model.decode import INVALID, Field, ListOf, Message, Parts, Spot
from meshkit.model.resources import HeaderOperations, Headers
from meshkit.model.scalars import String
from meshkit.model.string_match import HIDDEN, Pairs, is_header_name

_HOST = frozenset(("host", ":authority", "authority"))
_COMMAND = re.compile(r"%[A-Z_]+(?:\([^)]*\))?(?::\d+)?%")


def _value(text: str, spot: Spot) -> Any:
    """The header's value; ``%%`` stands for one percent sign, as in Envoy."""
    rest = text.replace("%%", "")
    if _COMMAND.search(rest):
        message = f'the variable in "{text[:60]}" is not supported yet'
        return spot.error(message, "write a fixed value", "not-supported-yet")
    if "%" in rest:
        return spot.error("a lone % starts a variable", "write %% for a percent sign")
    if not text.isascii() or text != text.strip():
        return spot.error(
            f'"{text[:60]}" is not a header value', "use ASCII, without spaces at the ends"
        )
    return text.replace("%%", "%")


def _changed_name(text: str, spot: Spot) -> str | None:
    """The lower-case name of a request header that may be set or added."""
    if text.lower() in _HOST:
        spot.not_yet(f'setting "{text}" (an authority rewrite)', "remove it")
        return None
    return _response_name(text, spot)


def _response_name(text: str, spot: Spot) -> str | None:
    name = text.lower()
    if name in HIDDEN:
        spot.error(f'"{text}" belongs to one connection and cannot be changed', "remove it")
        return None
    if not is_header_name(name):
        spot.error(f'"{text[:60]}" is not a header name', "use letters, digits and -")
        return None
    return name


def _removed_name(text: str, spot: Spot) -> Any:
    """⚠ Removing Host or a pseudo-header is ignored by Istio; here it is said."""
    if text.lower() in _HOST or text.startswith(":"):
        spot.warn(f'removing "{text}" has no effect', "remove it from the list", "ignored")
        return None
    return _response_name(text, spot) or INVALID


def _operations(parts: Parts) -> HeaderOperations:
    removed = (name for name in parts.get("remove", ()) if name is not None)
    return HeaderOperations(parts.get("set", ()), parts.get("add", ()), tuple(removed))


def _headers(parts: Parts) -> Headers:
    none = HeaderOperations()
    return Headers(parts.get("request", none), parts.get("response", none))


_VALUE = String("a header value", _value, empty=True)


def _message(key: Any) -> Message:
    return Message(
        "HeaderOperations",
        (
            Field("set", Pairs(_VALUE, key), note="overwrites"),
            Field("add", Pairs(_VALUE, key), note="appends"),
            Field("remove", ListOf(String("a header name", _removed_name))),
        ),
        _operations,
    )


HEADERS = Message(
    "Headers",
    (
        Field("request", _message(_changed_name)),
        Field("response", _message(_response_name)),
    ),
    _headers,
)
