"""From one revision to the next: what a worker must set and drop.

Invariant: ``apply(before.scopes, difference(before, after)) == after.scopes``.
A scope without hosts and no scope at all are the same thing, so neither side
keeps empty scopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshkit.snapshot.messages import snapshot_map
from meshkit.snapshot.types import Snapshot

Scopes = Mapping[str, Mapping[str, str]]
_NO_HOSTS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class MapUpdate:
    """The content of a `map` message.  ``put``: scope → host → hash."""

    revision: str
    host: str
    full: bool
    put: Scopes
    remove: Mapping[str, tuple[str, ...]]

    def encode(self) -> bytes:
        return snapshot_map(
            self.revision, self.host, full=self.full, put=self.put, remove=self.remove
        )


def update_of(header: Mapping[str, Any]) -> MapUpdate:
    """A received `map` header (checked by `FrameReader`) as a MapUpdate."""
    remove = {scope: tuple(hosts) for scope, hosts in header["del"].items()}
    return MapUpdate(header["revision"], header["host"], header["full"], header["set"], remove)


def difference(before: Snapshot | None, after: Snapshot) -> MapUpdate:
    """What leads from ``before`` (None: nothing is known, send all) to ``after``."""
    if before is None:
        put = {scope: hosts for scope, hosts in after.scopes.items() if hosts}
        return MapUpdate(after.revision, after.host, True, put, {})
    put, remove = {}, {}
    for scope in {**before.scopes, **after.scopes}:
        old = before.scopes.get(scope, _NO_HOSTS)
        new = after.scopes.get(scope, _NO_HOSTS)
        if old is new:
            continue
        if changed := {host: ident for host, ident in new.items() if old.get(host) != ident}:
            put[scope] = changed
        if gone := tuple(sorted(old.keys() - new.keys())):
            remove[scope] = gone
    return MapUpdate(after.revision, after.host, False, put, remove)


def apply(scopes: Scopes, update: MapUpdate) -> dict[str, dict[str, str]]:
    """The scopes after ``update``; the argument is left as it is."""
    result = {} if update.full else {scope: dict(hosts) for scope, hosts in scopes.items()}
    for scope, hosts in update.put.items():
        result.setdefault(scope, {}).update(hosts)
    for scope, names in update.remove.items():
        for name in names:
            result.get(scope, {}).pop(name, None)
    return {scope: hosts for scope, hosts in result.items() if hosts}


def hashes(host: str, scopes: Scopes) -> Iterator[str]:
    """Every blob that a revision names: the HostConfig's and each host's."""
    yield host
    for hosts in scopes.values():
        yield from hosts.values()
