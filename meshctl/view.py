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


def _discovery(value: Mapping[str, Any]) -> Discovery:
    held = tuple((str(h.get("service")), str(h.get("reason", ""))) for h in value.get("held", ()))
    return Discovery(
        str(value.get("kind", "unknown")),
        bool(value.get("connected")),
        int(value.get("instances", 0)),
        held,
    )


def _instance(value: Any) -> str:
    """A service that a host reports: ``ns/name``, with its instance where it says one."""
    if not isinstance(value, Mapping):
        return str(value)
    instance = value.get("instance", "")
    return f"{value.get('service', '')}{instance and ':'}{instance}"


def _workers(values: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, int, str], ...]:
    return tuple((w.get("index", 0), w.get("pid") or 0, str(w.get("revision", ""))) for w in values)


def _host(value: Mapping[str, Any]) -> Host:
    refused = value.get("refused", ())
    return Host(
        name=str(value["host"]),
        connected=bool(value.get("connected")),
        seen=seconds_of(value.get("seen")),
        revision=int(value.get("revision", 0)),
        accepted=bool(value.get("accepted", True)),
        reason=str(value.get("reason", "")),
        workers=_workers(value.get("workers", ())),
        certificates=_certificates(value.get("certificates", ())),
        discovery=_discovery(value.get("discovery", {})),
        services=tuple(map(_instance, value.get("services", ()))),
        refused=tuple((r["service"], r["reason"], r.get("remedy", "")) for r in refused),
    )


def _service(value: Mapping[str, Any]) -> Service:
    return Service(
        str(value["name"]),
        tuple(value.get("accounts", ())),
        tuple(value.get("hosts", ())),
        int(value.get("endpoints", 0)),
    )


def parse(answer: Mapping[str, Any]) -> Status:
    """The whole answer; what an older server leaves out is empty."""
    return Status(
        int(answer.get("revision", 0)),
        str(answer.get("mesh", {}).get("domain", "svc.cluster.local")),
        tuple(map(_host, answer.get("hosts", ()))),
        tuple(map(_service, answer.get("services", ()))),
        _certificates(answer.get("authority", ())),
    )
