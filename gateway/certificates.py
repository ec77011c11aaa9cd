"""Edge certificates: the files that Gateway servers name, judged before workers get them.

A pair that cannot be used (missing, unreadable, key of another certificate, not
valid yet, expired) is reported with the reason and the last good pair of that
name stays in use.  Files are read again when their modification time or size
changes, so that `certbot` and friends need no reload.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshd.agent.context import Agent
from meshd.agent.keeper import publish_keys
from meshd.agent.ledger import KeyPair
from meshkit.identity.pem import certificates, is_issued_in_order
from meshkit.routing.compile import Compiler
from meshkit.routing.edge import Edge, certificate_name, edge_certificates

LOOK_EVERY = 5.0
"""Seconds between looks at the files' times."""
MAX_FILE = 1 << 20

Files = tuple[str, str]
"""Chain and key, as ``tls.serverCertificate`` and ``tls.privateKey`` name them."""
Stamp = tuple[tuple[int, int], ...]


class BadPair(ValueError):
    """Why a certificate and key cannot be served."""


def judge_pair(chain: bytes, key: bytes, now: float) -> KeyPair:
    """A usable pair (PEM, leaf first), or BadPair with what to mend."""
    try:
        found = certificates(chain)
    except ValueError as error:
        raise BadPair(f"the certificate file is not PEM: {error}") from error
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise BadPair(f"the key file is not an unencrypted PEM key: {error}") from error
    leaf = found[0]
    if private.public_key() != leaf.public_key():
        raise BadPair("the key does not belong to the certificate; the leaf must come first")
    if not is_issued_in_order(found):
        raise BadPair("the chain is out of order: leaf first, each signed by the next")
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    if moment >= leaf.not_valid_after_utc:
        raise BadPair(f"expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%MZ}; renew it")
    if moment < leaf.not_valid_before_utc:
        raise BadPair(f"not valid before {leaf.not_valid_before_utc:%Y-%m-%dT%H:%MZ}")
    return KeyPair(chain, key)


def read_pair(files: Files, now: float) -> KeyPair:
    """Read and judge; BadPair also where a file cannot be read."""
    return judge_pair(_read(files[0]), _read(files[1]), now)


def _read(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadPair(f"{name}: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise BadPair(f"{name}: larger than {MAX_FILE} bytes")
    return data


def stamp(files: Files) -> Stamp:
    """What changes when a file is replaced or rewritten."""
    return tuple(_stamp(name) for name in files)


def _stamp(name: str) -> tuple[int, int]:
    try:
        status = Path(name).stat()
    except OSError:
        return (0, -1)
    return (status.st_mtime_ns, status.st_size)


@dataclass(slots=True)
class EdgeKeys:
    """The pairs in use, what is wrong, and the files as they were when last read."""

    pairs: dict[str, KeyPair] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    _stamps: dict[str, Stamp] = field(default_factory=dict)

    def update(self, wanted: Mapping[str, Files], now: float, *, force: bool = False) -> bool:
        """Read what is new or has changed; True if a pair or a fault changed."""
        before = (dict(self.pairs), dict(self.faults))
        for name in set(self._stamps) - set(wanted):
            self._forget(name)
        for name, files in wanted.items():
            seen = stamp(files)
            if force or self._stamps.get(name) != seen or name in self.faults:
                self._stamps[name] = seen
                self._take(name, files, now)
        return before != (self.pairs, self.faults)

    def _take(self, name: str, files: Files, now: float) -> None:
        try:
            self.pairs[name] = read_pair(files, now)
            self.faults.pop(name, None)
        except BadPair as error:
            self.faults[name] = str(error)

    def _forget(self, name: str) -> None:
        for held in (self._stamps, self.pairs, self.faults):
            held.pop(name, None)


def places(edge: Edge) -> dict[str, str]:
    """Certificate name → where the operator wrote it (Gateway, position, field)."""
    return {
        certificate_name(bound.server.tls): (
            f"{bound.gateway.meta.key} ({bound.server.position}) tls.serverCertificate"
        )
        for bound in edge.bound
        if bound.server.tls is not None
    }


class EdgeCertificates:
    """Keeps an agent's edge keys in step with its Gateways and with the files."""

    def __init__(self) -> None:
        self._keys = EdgeKeys()
        self._edge = Edge()

    def compiled(self, agent: Agent, compiler: Compiler) -> None:
        """After a compilation, before the snapshot is published."""
        self._edge = compiler.edge
        self.refresh(agent)

    def refresh(self, agent: Agent) -> None:
        """Read what has changed; hand it to the workers and report what is wrong."""
        if not self._keys.update(edge_certificates(self._edge), agent.wall()):
            return
        where = places(self._edge)
        for name, why in self._keys.faults.items():
            if agent.edge_faults.get(name) != f"{where[name]}: {why}":
                agent.log.error("edge_certificate_refused", where=where[name], reason=why)
        agent.edge_faults = {n: f"{where[n]}: {why}" for n, why in self._keys.faults.items()}
        agent.edge_keys = dict(self._keys.pairs)
        publish_keys(agent)
        agent.report.set()

    async def watch(self, agent: Agent) -> None:
        """Look at the files now and then, for the agent's life."""
        while True:
            await trio.sleep(LOOK_EVERY)
            self.refresh(agent)
