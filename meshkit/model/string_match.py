"""Istio's StringMatch, and the maps of them (headers, query parameters)."""

from __future__ import annotations

import re
from typing import Any

from meshkit.model.decode import INVALID, AcceptsNull, Field, MapOf, Message, Parts, Spot
from meshkit.model.resources import StringMatch
from meshkit.model.scalars import ANY_STRING, REGEX, String, regex

_HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]{1,256}")
_REQUEST_LINE = frozenset(("uri", "scheme", "method", "authority"))
HIDDEN = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "http2-settings",
    )
)
"""Of one connection or of the framing: routing neither sees nor changes them."""

_ONE_FORM = "give exactly one of exact, prefix and regex"


def _build(parts: Parts) -> Any:
    given = [kind for kind in ("exact", "prefix", "regex") if parts.given(kind)]
    if len(given) != 1:
        return parts.spot.error(f"has {len(given)} forms of match", _ONE_FORM)
    value = parts.get(given[0])
    return INVALID if value is None else StringMatch(given[0], value)  # type: ignore[arg-type]


def _build_present(parts: Parts) -> Any:
    if not any(map(parts.given, ("exact", "prefix", "regex"))):
        return StringMatch("present")
    match = _build(parts)
    if match is not INVALID and match.kind == "regex" and match.value == "*":
        return StringMatch("present")
    return match


def _star_or_regex(text: str, spot: Spot) -> Any:
    return text if text == "*" else regex(text, spot)


def _fields(prefix: String, expression: String) -> tuple[Field, ...]:
    return (
        Field("exact", ANY_STRING),
        Field("prefix", prefix, note="a raw string prefix: /foo also matches /foobar"),
        Field("regex", expression, note="RE2, matches the whole, at most 1024 characters"),
    )


class _PresenceMatch(Message, AcceptsNull):
    """``{}`` and null mean that the key is there, whatever its value."""

    def decode(self, spot: Spot) -> Any:
        return StringMatch("present") if spot.value.data is None else super().decode(spot)


URI_MATCH = Message("StringMatch", _fields(ANY_STRING, REGEX), _build)
STRING_MATCH = Message("StringMatch", _fields(String("a prefix that is not empty"), REGEX), _build)
HEADER_MATCH = _PresenceMatch(
    "StringMatch",
    _fields(ANY_STRING, String("an RE2 expression, or * for presence", _star_or_regex)),
    _build_present,
)
QUERY_MATCH = _PresenceMatch("StringMatch", _fields(ANY_STRING, REGEX), _build_present)


def is_header_name(text: str) -> bool:
    """An HTTP field name (RFC 9110 token)."""
    return _HEADER_NAME.fullmatch(text) is not None


def match_header_key(text: str, spot: Spot) -> str | None:
    """The lower-case header name of a match, None where it is refused or ignored.

    ⚠ Istio ignores ``uri``, ``scheme``, ``method`` and ``authority`` here.
    """
    name = text.lower()
    if name in _REQUEST_LINE:
        spot.warn(f'"{name}" is not a header: it is ignored here', f"match {name}: beside headers")
        return None
    problem = _unmatched(name)
    if problem is None:
        return name
    message, remedy, code = problem
    spot.error(message, remedy, code, spot.value.key_position)
    return None


def _unmatched(name: str) -> tuple[str, str, str] | None:
    """Message, remedy and code for a header that routing cannot match."""
    if name in ("host", ":authority"):
        return (f'"{name}" is the authority', "match authority: instead", "invalid")
    if name.startswith("@request.auth."):
        return ("matching JWT claims is not supported yet", "remove it", "not-supported-yet")
    if name in HIDDEN:
        remedy = "remove it: the header belongs to one connection"
        return (f'matching "{name}" is not supported yet', remedy, "not-supported-yet")
    if not is_header_name(name):
        return (f'"{name[:60]}" is not a header name', "use letters, digits and -", "invalid")
    return None


class Pairs(MapOf):
    """A map decoded as pairs, in the order written."""

    def decode(self, spot: Spot) -> Any:
        entries = super().decode(spot)
        return entries if entries is INVALID else tuple(entries.items())


HEADER_MATCHES = Pairs(HEADER_MATCH, match_header_key)
QUERY_MATCHES = Pairs(QUERY_MATCH)
