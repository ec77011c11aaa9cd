"""Host patterns: exact names and ``*`` wildcards, which win, where they overlap.

(And, for the workers, the protocols by kind: `meshkit.model.protocols`.)

The most specific host wins: exact, then the longest wildcard.  ``*.x`` covers any
number of labels in front and does not cover ``x`` itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from meshkit.model.protocols import AUTO as AUTO
from meshkit.model.protocols import HTTP2_PROTOCOLS as HTTP2_PROTOCOLS
from meshkit.model.protocols import HTTP_PROTOCOLS as HTTP_PROTOCOLS
from meshkit.model.protocols import PROTOCOLS as PROTOCOLS
from meshkit.model.protocols import TCP_PROTOCOLS as TCP_PROTOCOLS
from meshkit.model.protocols import TLS_PROTOCOLS as TLS_PROTOCOLS
from meshkit.model.protocols import is_http as is_http
from meshkit.model.protocols import is_http2 as is_http2
from meshkit.model.protocols import is_tcp as is_tcp
from meshkit.model.protocols import is_tls as is_tls

T = TypeVar("T")


def suffixes(host: str) -> Iterator[str]:
    """Wildcards that cover ``host``, longest first: ``*.b.c``, ``*.c``, ``*``."""
    dot = host.find(".")
    while dot != -1:
        yield "*" + host[dot:]
        dot = host.find(".", dot + 1)
    yield "*"


def most_specific(table: Mapping[str, T], host: str) -> T | None:
    """The value of the pattern that wins for ``host``."""
    if host in table:
        return table[host]
    return next((table[pattern] for pattern in suffixes(host) if pattern in table), None)


def specificity(pattern: str) -> tuple[bool, int]:
    """Sorts patterns in the order in which they win: exact names, then the longest wildcard."""
    return (True, -len(pattern)) if pattern.startswith("*") else (False, 0)


def covers(pattern: str, host: str) -> bool:
    """Every name that ``host`` (a name or a pattern) stands for is ``pattern``'s too."""
    if pattern in ("*", host):
        return True
    return pattern.startswith("*.") and host.endswith(pattern[1:])


def intersection(one: str, other: str) -> str | None:
    """The narrower of two overlapping patterns; None where they do not overlap."""
    if covers(other, one):
        return one
    return other if covers(one, other) else None
