"""Who may ask for which account, and which account may serve which service.

An operator entitles a host to service accounts when creating its token::

    default/reviews             account reviews, which serves the service reviews
    default/web:shop,cart       account web, which may also serve shop and cart

A host then *declares* its local services.  A declaration is admitted when the
host is entitled to the account and the account may serve that service.  The
union of what is admitted is the mesh's secure naming.  Nobody owns a name by
having come first: everything follows from what operators said.

Pure: entitlements and declarations in, naming out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from meshkit.identity import spiffe
from meshkit.names import ServiceName

MAX_HOST_NAME = 253
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class NameRefused(ValueError):
    """A name that the mesh does not accept.  The text says what was expected."""


@dataclass(frozen=True, slots=True, order=True)
class Entitlement:
    """``services`` are those beyond the one of the account's own name."""

    namespace: str
    account: str
    services: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = ":" + ",".join(self.services) if self.services else ""
        return f"{self.namespace}/{self.account}{names}"

    def may_serve(self, service: ServiceName) -> bool:
        return service.namespace == self.namespace and (
            service.name == self.account or service.name in self.services
        )


@dataclass(frozen=True, slots=True, order=True)
class DeclaredPort:
    port: int
    name: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Declaration:
    """A local service as its host declares it."""

    namespace: str
    name: str
    account: str
    instance: str = "main"
    ports: tuple[DeclaredPort, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def service(self) -> ServiceName:
        return ServiceName(self.namespace, self.name)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "labels": dict(self.labels)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a declaration is not admitted."""

    service: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Naming:
    """Secure naming of one service: (namespace, account) pairs, and its ports."""

    accounts: tuple[tuple[str, str], ...]
    ports: tuple[DeclaredPort, ...]


def parse_entitlement(text: str) -> Entitlement:
    """Read ``<namespace>/<account>[:<service>,…]``; NameRefused for anything else.

    The policy server's own account is given to no host, in any namespace.
    """
    whole, colon, listed = text.partition(":")
    namespace, slash, account = whole.partition("/")
    if not slash or not _LABEL.fullmatch(namespace) or not _ACCOUNT.fullmatch(account):
        raise NameRefused(
            f"{text[:80]!r} is not <namespace>/<account>[:<service>,…], such as default/reviews"
        )
    if account == spiffe.SERVER_ACCOUNT:
        raise NameRefused(f"account {account} belongs to the policy server itself")
    services = tuple(dict.fromkeys(listed.split(","))) if colon else ()
    for service in services:
        check_label(service, "service")
    return Entitlement(namespace, account, services)


def check_host(name: str) -> str:
    """Return a host's name; NameRefused unless it can stand in a SPIFFE id."""
    if not _HOST.fullmatch(name):
        raise NameRefused(
            f"host {name[:80]!r}: expected 1–{MAX_HOST_NAME} of letters, digits, '.', '_' and '-'"
        )
    return name


def check_label(name: str, what: str) -> str:
    """Return a DNS label; NameRefused for anything else."""
    if not _LABEL.fullmatch(name):
        raise NameRefused(f"{what} {name[:80]!r}: expected 1–63 of a–z, 0–9 and '-'")
    return name


def merge(old: Iterable[Entitlement], new: Iterable[Entitlement]) -> tuple[Entitlement, ...]:
    """Both together, one for each account."""
    accounts: dict[tuple[str, str], set[str]] = {}
    for entitlement in (*old, *new):
        services = accounts.setdefault((entitlement.namespace, entitlement.account), set())
        services.update(entitlement.services)
    return tuple(
        Entitlement(namespace, account, tuple(sorted(services)))
        for (namespace, account), services in sorted(accounts.items())
    )


def find(entitled: Iterable[Entitlement], namespace: str, account: str) -> Entitlement | None:
    """The entitlement to this account, if there is one."""
    for entitlement in entitled:
        if (entitlement.namespace, entitlement.account) == (namespace, account):
            return entitlement
    return None


def judge_declaration(
    host: str, declaration: Declaration, entitled: Iterable[Entitlement]
) -> Refusal | None:
    """None where the declaration is admitted; else the reason and the command that mends it."""
    account = f"{declaration.namespace}/{declaration.account}"
    own = declaration.account == declaration.name
    needed = account if own else f"{account}:{declaration.name}"
    remedy = f"an operator may run: meshctl token create --host {host} --account {needed}"
    entitlement = find(entitled, declaration.namespace, declaration.account)
    if entitlement is None:
        reason = f"host {host} is not entitled to account {account}"
        return Refusal(str(declaration.service), reason, remedy)
    if not entitlement.may_serve(declaration.service):
        reason = f"account {account} may not serve {declaration.service} on host {host}"
        return Refusal(str(declaration.service), reason, remedy)
    return None


def admit(
    declarations: Mapping[str, Sequence[Declaration]],
    entitled: Mapping[str, Sequence[Entitlement]],
) -> dict[ServiceName, Naming]:
    """Secure naming from what each host declared and is entitled to (both by host).

    Where hosts disagree on a port's name or protocol, the last host by name says it.
    """
    accounts: dict[ServiceName, set[tuple[str, str]]] = {}
    ports: dict[ServiceName, dict[int, DeclaredPort]] = {}
    for host, declared in sorted(declarations.items()):
        for one in declared:
            if judge_declaration(host, one, entitled.get(host, ())) is None:
                accounts.setdefault(one.service, set()).add((one.namespace, one.account))
                known = ports.setdefault(one.service, {})
                known.update({port.port: port for port in one.ports})
    return {
        service: Naming(tuple(sorted(allowed)), tuple(sorted(ports[service].values())))
        for service, allowed in sorted(accounts.items())
    }
