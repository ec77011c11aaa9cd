"""``GET /v1/status`` as typed values: the one place that knows the answer's fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Certificate:
    """``not_after``: seconds since 1970."""

    identity: str
    not_after: float


@dataclass(frozen=True, slots=True)
class Discovery:
    """``held``: services whose last good set is kept, as (service, why)."""

    kind: str = "unknown"
    connected: bool = False
    instances: int = 0
    held: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """One host's last report.  ``workers`` are (index, pid, revision)."""

    name: str
    connected: bool
    seen: float
    revision: int
    accepted: bool
    reason: str
    workers: tuple[tuple[int, int, str], ...]
    certificates: tuple[Certificate, ...]
    discovery: Discovery
    services: tuple[str, ...]
    refused: tuple[tuple[str, str, str], ...]
    """Services it declared in vain: (service, reason, remedy)."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service that hosts declared; ``endpoints`` = its instances on connected hosts."""

    name: str
    accounts: tuple[str, ...]
    hosts: tuple[str, ...]
    endpoints: int


@dataclass(frozen=True, slots=True)
class Status:
    """``authority``: root and intermediate certificates of the server."""

    revision: int
    domain: str
    hosts: tuple[Host, ...]
    services: tuple[Service, ...]
    authority: tuple[Certificate, ...]


def seconds_of(value: Any) -> float:
    """A time of the server's: seconds since 1970, or ISO 8601.  0.0 for none."""
    if isinstance(value, int | float):
        return float(value)
    return datetime.fromisoformat(value).timestamp() if value else 0.0


def _certificate(value: Mapping[str, Any]) -> Certificate:
    return Certificate(str(value.get("identity", "")), seconds_of(value.get("notAfter")))


def _certificates(values: Iterable[Mapping[str, Any]]) -> tuple[Certificate, ...]:
    return tuple(map(_certificate, values))
