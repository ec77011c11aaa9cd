"""What a certificate shall say, as a plain value: decided here, signed in `ca.sign`.

Keeping the three steps apart (template → sign → verify one's own output) means
that no caller of the signer chooses a field, and that what was signed is read
back by other code than wrote it.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from typing import Literal

from cryptography import x509

from meshkit.identity import spiffe
from meshkit.identity.csr import PublicKey
from meshkit.identity.rotation import BACKDATE

Role = Literal["root", "intermediate", "leaf"]

YEAR = 365 * 86400.0
ROOT_LIFETIME = 10 * YEAR
INTERMEDIATE_LIFETIME = 3 * YEAR
"""Renewed by the server itself at half of it, so a leaf is never cut short by it."""
OPERATOR_LIFETIME = YEAR
LEAF_LIFETIME = 86400.0
MIN_LEAF_LIFETIME = 60.0
"""A minute, for tests of rotation; under it a renewal could not fail even once."""
MAX_LEAF_LIFETIME = 90 * 86400.0
"""There is no revocation list: a stolen key works until its certificate expires."""


class TemplateError(ValueError):
    """A certificate that this authority does not make."""


@dataclass(frozen=True, slots=True)
class Template:
    """``identity`` is the URI name of a leaf, "" for authorities.

    ``not_before`` and ``not_after`` are whole seconds since 1970.  ``names`` are
    DNS names and IP addresses, for the server's own certificate only.
    """

    role: Role
    subject: str
    identity: str
    public_key: PublicKey
    not_before: int
    not_after: int
    names: tuple[str, ...] = ()


def root_template(trust_domain: str, key: PublicKey, now: float) -> Template:
    """The anchor of a trust domain."""
    subject = f"{spiffe.check_trust_domain(trust_domain)} root"
    return Template("root", subject, "", key, *_span(now, ROOT_LIFETIME, math.inf))


def intermediate_template(
    trust_domain: str, key: PublicKey, now: float, issuer_expires: float
) -> Template:
    """The authority that signs leaves; may not sign further authorities."""
    subject = f"{spiffe.check_trust_domain(trust_domain)} intermediate"
    span = _span(now, INTERMEDIATE_LIFETIME, issuer_expires)
    return Template("intermediate", subject, "", key, *span)


def leaf_template(
    identity: str,
    key: PublicKey,
    now: float,
    lifetime: float,
    issuer_expires: float,
    names: tuple[str, ...] = (),
) -> Template:
    """A certificate of ``identity``, never valid past its issuer."""
    spiffe.parse(identity)
    return Template("leaf", "", identity, key, *_span(now, lifetime, issuer_expires), names)


def _span(now: float, lifetime: float, issuer_expires: float) -> tuple[int, int]:
    start, end = int(now - BACKDATE), int(min(now + lifetime, issuer_expires))
    if end <= now:
        raise TemplateError("the issuer has expired; start mesh-ca to renew it")
    return start, end


def general_name(name: str) -> x509.GeneralName:
    """An IP address or a DNS name as a subject alternative name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
