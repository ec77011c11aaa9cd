"""Clients of the policy server for this host, one for each certificate it has had."""

from __future__ import annotations

from ca.client import PolicyClient
from meshd.agent.client import Client
from meshd.agent.store import HOST, Membership, Store
from meshd.config import AgentConfig


class Connections:
    """`Connector` over TLS.  A renewed certificate or new roots make a new client."""

    def __init__(self, config: AgentConfig, store: Store):
        self._address = config.control
        self._store = store
        self._made: tuple[str, str] | None = None
        self._client: PolicyClient | None = None

    def as_host(self, member: Membership) -> Client:
        identity = self._store.load(HOST)
        if identity is None:
            raise OSError("this host has no identity yet")
        made = (identity.serial, member.root())
        if self._client is None or made != self._made:
            self._client = PolicyClient(
                self._address,
                roots=member.root(),
                certificate=identity.chain,
                key=identity.key,
                trust_domain=member.mesh.trust_domain,
                root_namespace=member.mesh.root_namespace,
            )
            self._made = made
        return self._client

    def with_token(self, token: str) -> Client:
        return PolicyClient(self._address, fingerprint=token.rpartition(".")[2])

    def anonymous(self, member: Membership) -> Client:
        mesh = member.mesh
        return PolicyClient(
            self._address,
            roots=member.root(),
            trust_domain=mesh.trust_domain,
            root_namespace=mesh.root_namespace,
        )
