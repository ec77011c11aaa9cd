"""SPIFFE ids: the names that certificates carry.

Source: the SPIFFE-ID standard, sections 2 and 2.3, read strictly: what it
merely discourages (a query, percent escapes, an upper-case trust domain) is
refused, so that one identity has one spelling and comparing strings is enough.

The shapes of this mesh::

    spiffe://<trust domain>/ns/<namespace>/sa/<account>   a workload
    spiffe://<trust domain>/host/<name>                   a host, to the control plane only
    spiffe://<trust domain>/operator/<name>               a person or a pipeline
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "spiffe://"
MAX_LENGTH = 2048
"""SPIFFE-ID 2.3: longer ids need not be supported by anyone."""
MAX_TRUST_DOMAIN = 255
SERVER_ACCOUNT = "mesh-ca"
"""Account of the policy server, in the mesh's root namespace."""

_TRUST_DOMAIN = re.compile(rf"[a-z0-9._-]{{1,{MAX_TRUST_DOMAIN}}}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


class SpiffeError(ValueError):
    """Not a SPIFFE id.  The text says which rule it breaks."""


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A parsed id.  ``segments`` are those of its path, at least one."""

    trust_domain: str
    segments: tuple[str, ...]

    def __str__(self) -> str:
        return SCHEME + self.trust_domain + "/" + "/".join(self.segments)

    @property
    def account(self) -> tuple[str, str] | None:
        """(namespace, account) of a workload's id; None for any other."""
        match self.segments:
            case ("ns", namespace, "sa", account):
                return namespace, account
        return None

    @property
    def host(self) -> str | None:
        """The host name of a host's id; None for any other."""
        return self._named("host")

    @property
    def operator(self) -> str | None:
        """The name of an operator's id; None for any other."""
        return self._named("operator")

    def _named(self, kind: str) -> str | None:
        match self.segments:
            case (first, name) if first == kind:
                return name
        return None


def parse(text: str) -> SpiffeId:
    """Read an id; SpiffeError where it is not one of strict form."""
    if len(text) > MAX_LENGTH:
        raise SpiffeError(f"longer than {MAX_LENGTH} characters")
    if not text.startswith(SCHEME):
        raise SpiffeError("the scheme is not spiffe://")
    domain, slash, path = text[len(SCHEME) :].partition("/")
    check_trust_domain(domain)
    if not slash:
        raise SpiffeError("no path: a trust domain by itself names nobody")
    segments = tuple(path.split("/"))
    for segment in segments:
        _check_segment(segment)
    return SpiffeId(domain, segments)


def check_trust_domain(name: str) -> str:
    """Return ``name``; SpiffeError unless it is 1–255 of ``[a-z0-9._-]``."""
    if not _TRUST_DOMAIN.fullmatch(name):
        raise SpiffeError(f"trust domain {name[:80]!r}: expected 1–255 of [a-z0-9._-]")
    return name


def _check_segment(segment: str) -> str:
    if segment in (".", ".."):
        raise SpiffeError("a path segment is '.' or '..'")
    if not _SEGMENT.fullmatch(segment):
        raise SpiffeError(f"path segment {segment[:80]!r}: expected one or more of [A-Za-z0-9._-]")
    return segment


def account_id(trust_domain: str, namespace: str, account: str) -> str:
    """``spiffe://<td>/ns/<namespace>/sa/<account>``."""
    return _format(trust_domain, "ns", namespace, "sa", account)


def host_id(trust_domain: str, name: str) -> str:
    """``spiffe://<td>/host/<name>``."""
    return _format(trust_domain, "host", name)


def operator_id(trust_domain: str, name: str) -> str:
    """``spiffe://<td>/operator/<name>``."""
    return _format(trust_domain, "operator", name)


def server_id(trust_domain: str, root_namespace: str) -> str:
    """The policy server's own id, which agents check before they send a byte."""
    return account_id(trust_domain, root_namespace, SERVER_ACCOUNT)


def _format(trust_domain: str, *segments: str) -> str:
    check_trust_domain(trust_domain)
    return str(SpiffeId(trust_domain, tuple(map(_check_segment, segments))))
