"""The store: what the control plane must not forget.

`tests/ca/store/conformance.py` holds every implementation to this interface.
Every method is one transaction: it happened whole or not at all, and when it
returns it is on disk.  Times are seconds since 1970, given by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ca.admission import Declaration, Entitlement

TokenFault = Literal["unknown", "used", "expired", "other_host"]
ChangeKind = Literal["created", "configured", "deleted"]
Document = Mapping[str, Any]


class TokenRefused(Exception):
    """A token that admits nobody.  ``fault`` says why."""

    def __init__(self, fault: TokenFault) -> None:
        super().__init__(fault)
        self.fault = fault


class Conflict(Exception):
    """The policy is at another revision than the change was made for."""

    def __init__(self, head: int) -> None:
        super().__init__(f"the mesh is at revision {head}")
        self.head = head


@dataclass(frozen=True, slots=True)
class Token:
    """A join token.  ``digest`` is the SHA-256 of its secret; the secret is not kept."""

    digest: str
    host: str
    entitlements: tuple[Entitlement, ...]
    created: float
    expires: float
    author: str


@dataclass(frozen=True, slots=True)
class Host:
    """A host that an operator has let in."""

    name: str
    joined: float
    entitlements: tuple[Entitlement, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate that was issued."""

    serial: str
    identity: str
    host: str
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as applied.  ``author`` and ``time`` are of its last change."""

    key: str
    document: Document
    source: str
    created: int
    revision: int
    author: str
    time: float


@dataclass(frozen=True, slots=True)
class Change:
    """One resource's part in a revision.  ``document`` is None when it was deleted."""

    key: str
    kind: ChangeKind
    document: Document | None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Revision:
    number: int
    author: str
    time: float
    message: str
    changes: tuple[Change, ...]


class Store(Protocol):
    """See the module.  Nothing here judges: callers have, before they write."""

    async def epoch(self) -> str:
        """A name of this store's history, made once: revisions of two epochs do not compare."""

    async def add_token(self, token: Token) -> None:
        """Keep a token."""

    async def tokens(self, now: float) -> list[Token]:
        """Those that can still be used, by expiry."""

    async def check_token(self, digest: str, host: str, now: float) -> Token:
        """As `consume_token`, consuming nothing."""

    async def consume_token(
        self, digest: str, host: str, now: float, certificate: Certificate
    ) -> Token:
        """Consume a token, record the host, its entitlements and its certificate.

        All in one transaction: of any number of callers exactly one returns, the
        others get TokenRefused.  Entitlements are added to those the host had.
        """

    async def hosts(self) -> list[Host]:
        """Every host, by name."""

    async def host(self, name: str) -> Host | None:
        """One host."""

    async def entitle(self, name: str, entitlements: Sequence[Entitlement]) -> bool:
        """Set what a host is entitled to; False when there is no such host."""

    async def forget_host(self, name: str) -> bool:
        """Remove a host with its entitlements and declarations; False if unknown."""

    async def record_certificates(self, certificates: Sequence[Certificate]) -> None:
        """Keep what was issued."""

    async def certificates(self, host: str = "") -> list[Certificate]:
        """What was issued (to one host), the latest first."""

    async def declare(self, host: str, declarations: Sequence[Declaration]) -> bool:
        """Replace what a host declares; True if that changed anything."""

    async def declarations(self) -> dict[str, list[Declaration]]:
        """What each host declares."""

    async def commit(
        self, base: int, author: str, now: float, message: str, changes: Sequence[Change]
    ) -> Revision:
        """Make the next revision out of one or more changes; Conflict unless at ``base``."""

    async def head(self) -> int:
        """The latest revision; 0 before the first."""

    async def resources(self, at: int | None = None) -> list[Resource]:
        """Everything applied, by key: now, or as of a revision."""

    async def changes_since(self, revision: int) -> tuple[int, list[Resource], list[str]]:
        """(head, resources changed since, keys deleted since), read as one."""

    async def history(self, limit: int, before: int | None = None) -> list[Revision]:
        """The latest revisions, the newest first, below ``before`` if given."""

    async def revision(self, number: int) -> Revision | None:
        """One revision with its content."""

    async def prune(self, now: float) -> None:
        """Drop tokens and certificates that expired more than 30 days ago."""

    async def close(self) -> None:
        """Let go of the files."""
