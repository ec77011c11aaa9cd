"""Hosts, what they declare, and the secure naming that follows.

A copy of the store's hosts and declarations in memory, read whole again after
each change: a change is rare, and every stream asks for the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ca.admission import Declaration, Naming, Refusal, admit, judge_declaration
from ca.store.base import Host, Store
from meshkit.identity import spiffe
from meshkit.names import ServiceName


@dataclass(slots=True)
class Directory:
    """``generation`` counts the changes of `naming`."""

    store: Store
    generation: int = 0
    hosts: dict[str, Host] = field(default_factory=dict)
    declarations: dict[str, list[Declaration]] = field(default_factory=dict)
    naming: dict[ServiceName, Naming] = field(default_factory=dict)

    async def refresh(self) -> bool:
        """Read the store again; True if naming has changed."""
        self.hosts = {host.name: host for host in await self.store.hosts()}
        self.declarations = await self.store.declarations()
        entitled = {name: host.entitlements for name, host in self.hosts.items()}
        naming = admit(self.declarations, entitled)
        changed = naming != self.naming or not self.generation
        if changed:
            self.naming, self.generation = naming, self.generation + 1
        return changed

    async def declare(
        self, host: str, declarations: Sequence[Declaration]
    ) -> tuple[list[str], list[Refusal], bool]:
        """Record what ``host`` declares: (admitted services, refusals, naming changed)."""
        changed = await self.store.declare(host, declarations) and await self.refresh()
        refused = self.refusals(host)
        no = {refusal.service for refusal in refused}
        admitted = {str(one.service) for one in self.declarations.get(host, ())}
        return sorted(admitted - no), refused, changed

    def refusals(self, host: str) -> list[Refusal]:
        """What ``host`` declares in vain, by what it is entitled to now."""
        known = self.hosts.get(host)
        entitled = known.entitlements if known else ()
        judged = (judge_declaration(host, d, entitled) for d in self.declarations.get(host, ()))
        return list(dict.fromkeys(refusal for refusal in judged if refusal is not None))

    def naming_json(self, trust_domain: str) -> dict[str, Any]:
        """``ns/name`` → accounts (SPIFFE ids) and ports, as streams carry it."""
        return {
            str(service): {
                "accounts": [spiffe.account_id(trust_domain, *one) for one in naming.accounts],
                "ports": [
                    {"name": p.name, "port": p.port, "protocol": p.protocol} for p in naming.ports
                ],
            }
            for service, naming in self.naming.items()
        }
