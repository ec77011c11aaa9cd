"""The identities of this host: join once, then keep every certificate renewed.

A certificate is asked for when it is missing, and again at 45–50 % of its life.
A failed renewal keeps the valid certificate and is tried again, at the latest
after a tenth of the life that is left.  An expired one is not used any more:
the mesh fails closed, and readiness says so.

One refusal must not starve the others: when the server refuses a batch, each
account is asked for by itself, and what is refused is reported with the
server's remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from meshd.agent.mesh import mesh_settings
from meshd.agent.store import HOST, Identity, Membership, Store, Unusable, read_identity
from meshd.agent.timing import renewal_retry
from meshkit.identity import rotation
from meshkit.identity.csr import make_key_and_request, make_request
from meshkit.names import MeshSettings


class Signer(Protocol):
    """The policy server as seen from here; `ca.client.PolicyClient` is one."""

    async def post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]: ...


@dataclass(slots=True)
class Held:
    """One name's state.  ``chance`` is drawn once for each certificate."""

    name: str
    identity: Identity | None = None
    chance: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    fault: str = ""

    def due_at(self) -> float:
        """Unix time of the next request."""
        due = 0.0 if self.identity is None else rotation.renew_at(self.identity.life, self.chance)
        return max(due, self.retry_at)

    def usable(self, now: float) -> bool:
        return self.identity is not None and not rotation.expired(self.identity.life, now)


@dataclass(slots=True)
class Roster:
    """All names that this host should hold.  Pure over ``now`` and ``chance``."""

    chance: Callable[[], float]
    held: dict[str, Held] = field(default_factory=dict)

    def want(self, names: Iterable[str], load: Callable[[str], Identity | None]) -> None:
        """Hold exactly these; what is new is looked up on disk first."""
        wanted = list(dict.fromkeys(names))
        self.held = {name: self.held.get(name) or self._fresh(name, load) for name in wanted}

    def _fresh(self, name: str, load: Callable[[str], Identity | None]) -> Held:
        return Held(name, load(name), self.chance())

    def due(self, now: float) -> list[str]:
        return [h.name for h in self.held.values() if h.due_at() <= now]

    def next_due(self) -> float | None:
        return min((h.due_at() for h in self.held.values()), default=None)

    def renewed(self, identity: Identity) -> None:
        self.held[identity.name] = Held(identity.name, identity, self.chance())

    def failed(self, name: str, fault: str, now: float) -> None:
        held = self.held[name]
        held.failures += 1
        held.fault = fault
        left = held.identity.life.expires - now if held.identity else 600.0
        held.retry_at = now + renewal_retry(held.failures, self.chance(), left)

    def usable(self, now: float) -> dict[str, Identity]:
        """What may be shown to a peer: by name, the unexpired ones."""
        return {
            name: held.identity
            for name, held in self.held.items()
            if held.identity is not None and held.usable(now)
        }

    def missing(self, now: float) -> dict[str, str]:
        """Name → why there is no usable certificate."""
        return {name: _reason(held) for name, held in self.held.items() if not held.usable(now)}

    def next_expiry(self, now: float) -> float | None:
        """When the next usable one ceases to be."""
        return min((i.life.expires for i in self.usable(now).values()), default=None)


def _reason(held: Held) -> str:
    state = "no certificate yet" if held.identity is None else "the certificate has expired"
    return f"{state}: {held.fault}" if held.fault else state


@dataclass(frozen=True, slots=True)
class Signed:
    """The outcome of one round: what was renewed, what failed and why, new roots."""

    renewed: tuple[Identity, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    roots: Mapping[str, str] = field(default_factory=dict)


async def sign(
    signer: Signer,
    store: Store,
    names: Collection[str],
    mesh: MeshSettings,
    refusal: type[Exception],
) -> Signed:
    """Ask for certificates of ``names``, keep them on disk.

    ``refusal`` is the client's exception for an answer that says no; what it
    raises when the server is away passes through.
    """
    try:
        return await _sign_batch(signer, store, names, mesh)
    except refusal as error:
        if len(names) == 1:
            return Signed(failed=dict.fromkeys(names, str(error)))
    parts = [await sign(signer, store, [name], mesh, refusal) for name in names]
    return Signed(
        tuple(identity for part in parts for identity in part.renewed),
        {name: why for part in parts for name, why in part.failed.items()},
        next((part.roots for part in parts if part.roots), {}),
    )


async def _sign_batch(
    signer: Signer, store: Store, names: Collection[str], mesh: MeshSettings
) -> Signed:
    pairs = {name: make_key_and_request() for name in names}
    requests = [{"account": name, "csr": csr.decode()} for name, (_, csr) in pairs.items()]
    answer = await signer.post("/v1/sign", {"requests": requests})
    renewed, failed = [], {}
    for (name, (key, _)), chain in zip(pairs.items(), answer["certificates"], strict=True):
        try:
            renewed.append(_keep(store, name, key, chain.encode(), mesh))
        except (Unusable, OSError) as error:
            failed[name] = str(error)
    return Signed(tuple(renewed), failed, answer.get("roots", {}))


def _keep(store: Store, name: str, key: bytes, chain: bytes, mesh: MeshSettings) -> Identity:
    certified = read_identity(name, key, chain, store.path(name)).spiffe
    expected = spiffe_of(name, mesh, "")
    if name != HOST and certified != expected:
        raise Unusable(f"{name}: the server certified {certified}, not {expected}")
    return store.save(name, key, chain)


def spiffe_of(name: str, mesh: MeshSettings, host: str) -> str:
    """``default/reviews`` → its SPIFFE id; ``host`` → the host's own."""
    if name == HOST:
        return f"spiffe://{mesh.trust_domain}/host/{host}"
    namespace, _, account = name.partition("/")
    return f"spiffe://{mesh.trust_domain}/ns/{namespace}/sa/{account}"


async def join(signer: Signer, store: Store, host: str, token: str) -> tuple[Membership, Identity]:
    """Trade the one-time token for the host's identity; both are on disk when it returns."""
    key, csr = make_key_and_request()
    body = {"token": token, "host": host, "csr": csr.decode()}
    answer = await signer.post("/v1/join", body)
    member = Membership(host, mesh_settings(answer["mesh"]), dict(answer["roots"]))
    # Membership first: a host identity without roots to check the server by is useless.
    store.save_membership(member)
    return member, store.save(HOST, key, answer["certificate"].encode())


async def renew_expired(signer: Signer, store: Store, expired: Identity) -> Identity:
    """A new host certificate for an expired one: its key is the proof (`/v1/renew`)."""
    body = {
        "certificate": expired.chain.decode(),
        "csr": make_request(expired.key).decode(),
    }
    answer = await signer.post("/v1/renew", body)
    return store.save(HOST, expired.key, answer["certificate"].encode())
