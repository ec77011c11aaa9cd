"""What is written to Consul and how it is read back: pure values both ways.

One registration per port.  Consul's own fields say what any of its users can
use: the name, and the address and port where the service answers plaintext
callers.  Ours say how the mesh reaches it: ``TaggedAddresses.baremesh`` and the
``baremesh-…`` keys of Meta.  Labels are JSON in Meta values, because Meta's keys
may not hold the dots and slashes that label keys have, and a service may have
64 keys and 512 characters a value at most.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from meshd.discovery.base import Instance
from meshd.discovery.local import HostAddress, instance_name
from meshd.discovery.view import Answer, Key, key_of
from meshkit.model.protocols import normal
from meshkit.model.resources import Health, LocalService, ServicePort
from meshkit.names import ServiceName

TAG = "baremesh"
META_VALUE = 512  # characters Consul takes
DEFAULT_NAMESPACE = "default"
FOREIGN_PROTOCOL = "HTTP"  # whoever reaches a foreign service here speaks HTTP to it

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAINTENANCE = ("_service_maintenance", "_node_maintenance")
_AGENT_CHECK = "serfHealth"


class MalformedAnswer(ValueError):
    """Consul's answer does not have the documented shape."""


@dataclass(frozen=True, slots=True)
class Registration:
    """Arguments of py-consul's ``agent.service.register`` that we use."""

    id: str
    name: str
    address: str
    port: int
    meta: Mapping[str, str]
    tagged_addresses: Mapping[str, Mapping[str, Any]]
    checks: tuple[Mapping[str, str], ...]
    instance: str
    """``<ns>/<name>/<instance>``: whose health meshd reports."""

    @property
    def ttl_check(self) -> str:
        return f"{self.id}:meshd"

    def check_ids(self) -> frozenset[str]:
        return frozenset(check["CheckID"] for check in self.checks)


def id_prefix(host: str) -> str:
    """Ids with this prefix are ours; hosts may share an agent (a laptop's demo)."""
    return f"{TAG}:{quote(host, safe='')}:"


def registrations(
    services: Iterable[LocalService], host: HostAddress, ttl: float
) -> dict[str, Registration]:
    """Registration id → registration, one for each port of each service."""
    found = (
        _registration(service, port, host, ttl) for service in services for port in service.ports
    )
    return {registration.id: registration for registration in found}


def _registration(
    service: LocalService, port: ServicePort, host: HostAddress, ttl: float
) -> Registration:
    parts = (service.namespace, service.name, service.instance, str(port.port))
    service_id = id_prefix(host.name) + ":".join(quote(part, safe="") for part in parts)
    meta = {
        f"{TAG}-namespace": service.namespace,
        f"{TAG}-instance": service.instance,
        f"{TAG}-host": host.name,
        f"{TAG}-protocol": port.protocol,
        f"{TAG}-port-name": port.name,
        **labels_to_meta(service.labels),
    }
    checks = (
        {"CheckID": f"{service_id}:app", "Name": "application", **application_check(service, port)},
        {"CheckID": f"{service_id}:meshd", "Name": "meshd", "TTL": duration(ttl)},
    )
    tagged = {TAG: {"Address": host.address, "Port": host.mesh_port}}
    digest = json.dumps([host.address, port.port, meta, tagged, checks], sort_keys=True)
    meta[f"{TAG}-digest"] = hashlib.sha256(digest.encode()).hexdigest()[:16]
    return Registration(
        id=service_id,
        name=service.name,
        address=host.address,
        port=port.port,
        meta=meta,
        tagged_addresses=tagged,
        checks=checks,
        instance=instance_name(service),
    )


def application_check(service: LocalService, port: ServicePort) -> dict[str, str]:
    """What Consul's agent asks the application: its HTTP path, else a TCP connect."""
    health = service.health or Health(http=None, port=port.target)
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(service.address, service.address)
    authority = f"[{address}]:{health.port}" if ":" in address else f"{address}:{health.port}"
    what = (
        {"TCP": authority} if health.http is None else {"HTTP": f"http://{authority}{health.http}"}
    )
    return {**what, "Interval": duration(health.interval), "Timeout": duration(health.timeout)}


def duration(seconds: float) -> str:
    """Go's notation of a duration, to the millisecond."""
    return f"{round(seconds * 1000)}ms"


def labels_to_meta(labels: Mapping[str, str]) -> dict[str, str]:
    """``{"app": "x"}`` → ``{"baremesh-labels": '{"app":"x"}'}``, cut into further keys."""
    text = json.dumps(dict(labels), sort_keys=True, separators=(",", ":"))
    cuts = range(0, len(text), META_VALUE)
    return {_labels_key(n): text[at : at + META_VALUE] for n, at in enumerate(cuts, 1)}


def _labels_key(number: int) -> str:
    return f"{TAG}-labels" if number == 1 else f"{TAG}-labels-{number}"


def labels_from_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """The inverse; what is not ours, or damaged, counts as no labels."""
    pieces: list[str] = []
    while (piece := meta.get(_labels_key(len(pieces) + 1))) is not None:
        pieces.append(piece)
    try:
        labels = json.loads("".join(pieces) or "{}")
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


def read_services(answer: Any) -> frozenset[str]:
    """The names in an answer of /v1/catalog/services, without Consul's own."""
    if not isinstance(answer, dict):
        raise MalformedAnswer("the list of services is not an object")
    return frozenset(name for name in answer if name != "consul")


def read_health(answer: Any) -> dict[ServiceName, Answer]:
    """An answer of /v1/health/service/NAME, by namespace.

    Raises:
        MalformedAnswer: it is not what Consul's documentation says.
    """
    if not isinstance(answer, list):
        raise MalformedAnswer("the health answer is not a list")
    try:
        entries = [(read_instance(entry), state_of(entry["Checks"] or [])) for entry in answer]
    except (KeyError, TypeError, AttributeError) as error:
        raise MalformedAnswer(f"the health answer lacks a field: {error!r}") from error
    by_service: dict[ServiceName, list[tuple[Instance, str]]] = {}
    for instance, state in entries:
        if instance is not None:
            by_service.setdefault(instance.service, []).append((instance, state))
    return {service: _answer(found) for service, found in by_service.items()}


def _answer(found: Sequence[tuple[Instance, str]]) -> Answer:
    def keys(wanted: str) -> frozenset[Key]:
        return frozenset(key_of(instance) for instance, state in found if state == wanted)

    healthy = tuple(instance for instance, state in found if state == "healthy")
    return Answer(healthy, failing=keys("failing"), left=keys("left"))


def state_of(checks: Sequence[Mapping[str, Any]]) -> str:
    """``healthy``, ``failing``, ``left``, or ``unreachable``.

    Maintenance is how an instance says that it leaves (``consul maint`` too).
    A failed agent check is the servers' opinion that they do not reach the
    host; the instance itself said nothing, so it only counts as missing.
    """
    bad = [check["CheckID"] for check in checks if check["Status"] != "passing"]
    if any(check.startswith(_MAINTENANCE) for check in bad):
        return "left"
    if _AGENT_CHECK in bad:
        return "unreachable"
    return "failing" if bad else "healthy"


def read_instance(entry: Mapping[str, Any]) -> Instance | None:
    """None for what the mesh cannot call: Consul's own proxies, no port, an odd name."""
    node, service = entry["Node"], entry["Service"]
    meta = service.get("Meta") or {}
    name = ServiceName(meta.get(f"{TAG}-namespace", DEFAULT_NAMESPACE), service["Service"])
    if service.get("Kind") or not service["Port"] or not all(map(_LABEL.fullmatch, name)):
        return None
    mesh = (service.get("TaggedAddresses") or {}).get(TAG) or {}
    ours = f"{TAG}-namespace" in meta
    return Instance(
        service=name,
        instance=meta.get(f"{TAG}-instance") or service["ID"],
        host=meta.get(f"{TAG}-host") or node["Node"],
        address=mesh.get("Address") or service.get("Address") or node["Address"],
        port=service["Port"],
        protocol=normal(meta.get(f"{TAG}-protocol") or meta.get("protocol") or FOREIGN_PROTOCOL),
        mesh_port=mesh.get("Port"),
        port_name=meta.get(f"{TAG}-port-name", ""),
        labels=labels_from_meta(meta) if ours else dict(meta),
        weight=(service.get("Weights") or {}).get("Passing", 1),
    )
