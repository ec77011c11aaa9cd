"""The snapshot in force, and the switch to the next one.

The agent sends a map (scope → host → content hash) and the blobs that are
missing.  Until every blob of a map is held, the old snapshot serves; then one
assignment switches, so that a request sees the old state or the new, never a
mix.  A host is decoded when the first request asks for it: at 2,000 services a
decode of everything would stall traffic for half a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from meshkit.names import qualify
from meshkit.snapshot.codec import decode
from meshkit.snapshot.diff import apply, hashes, update_of
from meshkit.snapshot.types import ADDRESSES, AddressTable, HostConfig, OutboundHost

V = TypeVar("V")

MAX_AUTHORITIES = 10_000
"""Spellings of Host remembered per scope; a client cannot grow the cache further."""


def suffixes(host: str) -> Iterator[str]:
    """Wildcards that cover `host`, longest first: ``*.b.c``, ``*.c``, ``*``."""
    dot = host.find(".")
    while dot != -1:
        yield "*" + host[dot:]
        dot = host.find(".", dot + 1)
    yield "*"


class Scope(Generic[V]):
    """The hosts that one kind of caller can reach, decoded on demand."""

    def __init__(
        self,
        name: str,
        hosts: Mapping[str, str],
        domain: str,
        load: Callable[[str, str], V],
    ) -> None:
        self.hosts = hosts
        self._namespace = "" if name.startswith("gateway|") else name
        self._domain = domain
        self._load = load
        self._known: dict[str, V | None] = {}
        self.authorities: dict[bytes, tuple[V, int, object]] = {}
        """Host fields as sent → virtual host, port, and its action where there is but one:
        filled by the entries, bounded here."""

    def find(self, host: str) -> V | None:
        """The virtual host for a lower-case name without a port; None: no route."""
        try:
            return self._known[host]
        except KeyError:
            pass
        key = self._key(host)
        found = None if key is None else self._load(key, self.hosts[key])
        if len(self._known) >= MAX_AUTHORITIES:
            self._known.clear()
        self._known[host] = found
        return found

    def remember(self, authority: bytes, host: V, port: int, only: object) -> None:
        """Spare the next request with these very bytes the look-up."""
        if len(self.authorities) >= MAX_AUTHORITIES:
            self.authorities.clear()
        self.authorities[authority] = (host, port, only)

    def _key(self, host: str) -> str | None:
        if host.startswith("|"):
            return None  # ADDRESSES, which no client may name
        for name in self._spellings(host):
            if name in self.hosts:
                return name
        return next((s for s in suffixes(host) if s in self.hosts), None)

    def _spellings(self, host: str) -> Iterator[str]:
        yield host
        if not self._namespace:
            return
        if "." not in host:
            yield qualify(host, self._namespace, self._domain)
            return
        # name.namespace, and name.namespace.svc where the domain begins with "svc."
        yield f"{host}.{self._domain}"
        head, _, rest = self._domain.partition(".")
        if rest and host.endswith("." + head):
            yield f"{host}.{rest}"


@dataclass(slots=True)
class _Pending:
    revision: str
    host: str
    scopes: dict[str, dict[str, str]]
    missing: set[str] = field(default_factory=set)


class Refused(Exception):
    """The agent's snapshot cannot be used; the text goes back to it."""


class Live(Generic[V]):
    """Blobs held, the revision in force, and the one being assembled.

    `build` makes the worker's run-time value of a decoded host; it is called at
    most once a (scope, content hash) while that content stays in force.
    """

    def __init__(self, build: Callable[[str, OutboundHost], V]) -> None:
        self.revision = ""
        self.config: HostConfig | None = None
        self.blobs: dict[str, bytes] = {}
        self.scopes: dict[str, Scope[V]] = {}
        self._maps: dict[str, dict[str, str]] = {}
        self._host = ""
        self._built: dict[tuple[str, str], V] = {}
        self._build = build
        self._pending: _Pending | None = None
        self._tables: dict[str, AddressTable] = {}

    def propose(self, header: Mapping[str, Any]) -> list[str]:
        """Begin a switch to a `map` message's state; returns the hashes to send."""
        update = update_of(header)
        scopes = apply({} if update.full else self._target_maps(), update)
        pending = _Pending(update.revision, update.host, scopes)
        pending.missing = {h for h in hashes(update.host, scopes) if h not in self.blobs}
        self._pending = pending
        return sorted(pending.missing)

    def _target_maps(self) -> dict[str, dict[str, str]]:
        """A delta builds on the last map sent, whether or not it is in force yet."""
        return self._pending.scopes if self._pending is not None else self._maps

    @property
    def proposed(self) -> str:
        """The revision being assembled, or the one in force."""
        return self._pending.revision if self._pending is not None else self.revision

    def hold(self, digest: str, body: bytes) -> None:
        self.blobs[digest] = body
        if self._pending is not None:
            self._pending.missing.discard(digest)

    def switch(self) -> bool:
        """Put the proposed state in force if it is whole.  Raises Refused."""
        pending = self._pending
        if pending is None or pending.missing:
            return False
        self._pending = None
        if pending.host != self._host or self.config is None:
            try:
                self.config = decode(HostConfig, self.blobs[pending.host])
            except ValueError as error:
                raise Refused(f"host configuration: {error}") from error
            self._host = pending.host
        self._maps = pending.scopes
        self.revision = pending.revision
        self._forget()
        domain = self.config.mesh.domain
        self.scopes = {
            name: Scope(name, hosts, domain, self._loader(name))
            for name, hosts in pending.scopes.items()
        }
        return True

    def _forget(self) -> None:
        live = {(name, h) for name, hosts in self._maps.items() for h in hosts.values()}
        self._built = {key: value for key, value in self._built.items() if key in live}
        self._tables.clear()
        hashes = {h for _, h in live} | {self._host}
        self.blobs = {h: body for h, body in self.blobs.items() if h in hashes}

    def addresses(self, scope: str) -> AddressTable:
        """The services of a scope by address, for captured connections; decoded at first use."""
        digest = self._maps.get(scope, {}).get(ADDRESSES, "")
        known = self._tables.get(digest)
        if known is None:
            known = decode(AddressTable, self.blobs[digest]) if digest else AddressTable({})
            self._tables[digest] = known
        return known

    def _loader(self, scope: str) -> Callable[[str, str], V]:
        def load(_host: str, digest: str) -> V:
            value = self._built.get((scope, digest))
            if value is None:
                value = self._build(scope, decode(OutboundHost, self.blobs[digest]))
                self._built[(scope, digest)] = value
            return value

        return load
