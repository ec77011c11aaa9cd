"""The embedded registry: who serves what, for meshes without Consul.

Each host puts the whole set of its instances under one lease and renews it.  A
lease that runs out takes the set with it; an empty set says that the host left
on purpose.  Nothing is kept on disk: after a restart hosts put their sets again
within one renewal, and agents hold what they knew meanwhile.

Pure: ``now`` is any monotonic clock's seconds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ca import forms
from ca.admission import NameRefused, check_label
from ca.faults import invalid

MIN_LEASE, MAX_LEASE = 1.0, 300.0
"""Seconds.  Longer, and a dead host receives requests for minutes."""
MAX_INSTANCES = 4096
"""Of one host."""

Instance = Mapping[str, Any]
_LAST_PORT = 65535


@dataclass(slots=True)
class _Lease:
    expires: float
    instances: dict[str, list[Instance]]


@dataclass(slots=True)
class Registry:
    """``generations`` counts the changes of each service: what a stream has yet to send."""

    generation: int = 0
    generations: dict[str, int] = field(default_factory=dict)
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Host → services that it registers in vain: it is not entitled to serve them."""
    _leases: dict[str, _Lease] = field(default_factory=dict)

    def put(self, host: str, instances: Sequence[Instance], lease: float, now: float) -> bool:
        """Replace the set of ``host``; True if any service's instances changed."""
        known = self._leases.get(host)
        before = known.instances if known else {}
        after = _by_service(host, instances)
        self._leases[host] = _Lease(now + lease, after)
        return self._note(before, after)

    def forget(self, host: str) -> bool:
        """Drop the set of a host at once; True if it had any instance."""
        self.refused.pop(host, None)
        lease = self._leases.pop(host, None)
        return lease is not None and self._note(lease.instances, {})

    def expire(self, now: float) -> list[str]:
        """Drop what was not renewed; the hosts concerned."""
        gone = [host for host, lease in self._leases.items() if lease.expires <= now]
        for host in gone:
            self._note(self._leases.pop(host).instances, {})
        return gone

    def next_expiry(self) -> float | None:
        """When `expire` has something to do at the earliest."""
        return min((lease.expires for lease in self._leases.values()), default=None)

    def services(self, since: int = 0) -> dict[str, list[Instance]]:
        """``ns/name`` → instances, of the services changed after generation ``since``.

        One whose last instance has gone is there with an empty list.  ``since``
        0 = those that have any, however old.
        """
        if since:
            names = [name for name, at in self.generations.items() if at > since]
        else:
            names = sorted({name for lease in self._leases.values() for name in lease.instances})
        return {name: self._instances(name) for name in names}

    def _instances(self, name: str) -> list[Instance]:
        leases = (lease for _, lease in sorted(self._leases.items()))
        return [one for lease in leases for one in lease.instances.get(name, ())]

    def _note(
        self, before: Mapping[str, list[Instance]], after: Mapping[str, list[Instance]]
    ) -> bool:
        changed = [n for n in before.keys() | after.keys() if before.get(n) != after.get(n)]
        if changed:
            self.generation += 1
            self.generations.update(dict.fromkeys(changed, self.generation))
        return bool(changed)


def _by_service(host: str, instances: Sequence[Instance]) -> dict[str, list[Instance]]:
    services: dict[str, list[Instance]] = {}
    for one in instances:
        name = f"{one['namespace']}/{one['service']}"
        services.setdefault(name, []).append({**one, "host": host})
    return services


def read_instance(value: Mapping[str, Any]) -> Instance:
    """One entry of ``PUT /v1/registry``; Fault 400 where it is malformed."""
    try:
        service = check_label(forms.get(value, "service", str), "service")
        namespace = check_label(forms.get(value, "namespace", str, "default"), "namespace")
    except NameRefused as error:
        raise invalid(str(error)) from None
    mesh_port = value.get("meshPort")
    return {
        "service": service,
        "namespace": namespace,
        "instance": _short(value, "instance", "main"),
        "port": forms.integer(value, "port", 1, _LAST_PORT),
        "portName": _short(value, "portName", ""),
        "address": _address(value),
        "meshPort": None if mesh_port is None else forms.integer(value, "meshPort", 1, _LAST_PORT),
        "protocol": _short(value, "protocol", "HTTP"),
        "labels": forms.labels(value),
        "weight": forms.integer(value, "weight", 0, 65535, 1),
        "healthy": forms.get(value, "healthy", bool, True),
    }


def _short(value: Mapping[str, Any], name: str, default: str | None = None) -> str:
    text = forms.get(value, name, str, default)
    if len(text) > 255 or (default is None and not text):
        raise invalid(f"field {name!r} must have 1–255 characters")
    return forms.printable(text, name)


def _address(value: Mapping[str, Any]) -> str:
    """An IP address: workers look no names up."""
    text = _short(value, "address")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise invalid(f"address {text[:80]!r} is not an IP address") from None
