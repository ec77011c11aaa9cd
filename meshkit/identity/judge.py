"""Is this peer's certificate one of ours, and who is it?

TLS has already checked signatures and validity when a chain comes here; what
TLS does not check is decided here (X509-SVID standard, section 5):

- A context with the roots of several trust domains accepts a certificate that
  names domain A and was signed by B's authority.  So the anchor that the chain
  ended in must be a root of the leaf's OWN trust domain.
- ``ssl`` shows neither the CA flag nor key usage, so a stolen intermediate could
  pose as a leaf.  The leaf must be one that can sign handshakes and nothing else.

A verdict depends on the chain and the roots alone; time is asked of the verdict
(`Verdict.refusal_at`), so verdicts may be cached for as long as the roots stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshkit.identity import spiffe

CACHE_SIZE = 4096
"""Verdicts kept: one a peer certificate; some 400 bytes each."""

REASONS = (
    "no_certificate",
    "no_verified_chain",
    "malformed_certificate",
    "no_spiffe_id",
    "several_uri_names",
    "invalid_spiffe_id",
    "ca_certificate",
    "key_usage",
    "extended_key_usage",
    "unknown_trust_domain",
    "foreign_anchor",
    "not_yet_valid",
    "expired",
    "unexpected_identity",
)
"""Every reason of a refusal, as logged and as the label of the counter."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who the peer is, or why not.  Exactly one of ``identity`` and ``reason`` is set.

    ``not_before`` and ``not_after`` are seconds since 1970 (0 where unknown).
    """

    identity: str = ""
    reason: str = ""
    detail: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    serial: int = 0

    @property
    def accepted(self) -> bool:
        return not self.reason

    def refusal_at(self, now: float, expected: Collection[str] | None = None) -> str:
        """The reason to refuse this peer now, or "".

        ``expected`` holds the SPIFFE ids that may answer; None = any of the mesh.
        """
        if self.reason:
            return self.reason
        if now < self.not_before:
            return "not_yet_valid"
        if now >= self.not_after:
            return "expired"
        if expected is not None and self.identity not in expected:
            return "unexpected_identity"
        return ""


class Refused(Exception):
    """A rule that the certificate breaks.  ``args`` are the reason and a detail."""


def judge(chain: Sequence[bytes], roots: Mapping[str, Collection[bytes]]) -> Verdict:
    """Judge a chain that TLS has verified.

    ``chain`` is DER, the leaf first and the anchor last, as
    ``SSLSocket._sslobj.get_verified_chain()`` gives it; an empty one (a resumed
    session, no certificate) is refused.  ``roots`` maps each trust domain to the
    DER of its roots.
    """
    if not chain:
        return Verdict(reason="no_verified_chain", detail="TLS verified no chain")
    try:
        leaf = x509.load_der_x509_certificate(chain[0])
        identity = leaf_identity(leaf)
        _check_anchor(chain, roots, identity.trust_domain)
    except Refused as error:
        return Verdict(reason=error.args[0], detail=error.args[1])
    except ValueError as error:
        return Verdict(reason="malformed_certificate", detail=str(error)[:200])
    return Verdict(
        identity=str(identity),
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        serial=leaf.serial_number,
    )


def leaf_identity(leaf: x509.Certificate) -> spiffe.SpiffeId:
    """The id of a well-formed leaf; `Refused` or ValueError for any other.

    Says nothing about who signed it.
    """
    extensions = leaf.extensions
    identity = _uri_name(extensions)
    _check_is_leaf(extensions)
    _check_key_usage(extensions)
    _check_extended_key_usage(extensions)
    return identity


def _uri_name(extensions: x509.Extensions) -> spiffe.SpiffeId:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise Refused("no_spiffe_id", "no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        raise Refused("no_spiffe_id", "no URI among the subject alternative names")
    if len(uris) > 1:
        raise Refused("several_uri_names", f"{len(uris)} URI names, expected one")
    try:
        return spiffe.parse(uris[0])
    except spiffe.SpiffeError as error:
        raise Refused("invalid_spiffe_id", str(error)) from None


def _check_is_leaf(extensions: x509.Extensions) -> None:
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return
    if constraints.ca:
        raise Refused("ca_certificate", "the certificate is an authority's (CA:TRUE)")


def _check_key_usage(extensions: x509.Extensions) -> None:
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise Refused("key_usage", "no key usage, expected digitalSignature") from None
    if usage.key_cert_sign or usage.crl_sign:
        raise Refused("key_usage", "the key may sign certificates or revocation lists")
    if not usage.digital_signature:
        raise Refused("key_usage", "digitalSignature is missing")


def _check_extended_key_usage(extensions: x509.Extensions) -> None:
    try:
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(uses):
        raise Refused("extended_key_usage", "expected both serverAuth and clientAuth")


def _check_anchor(
    chain: Sequence[bytes], roots: Mapping[str, Collection[bytes]], trust_domain: str
) -> None:
    own = roots.get(trust_domain)
    if not own:
        raise Refused("unknown_trust_domain", f"no roots for trust domain {trust_domain}")
    if len(chain) < 2 or chain[-1] not in own:
        raise Refused("foreign_anchor", f"the chain does not end in a root of {trust_domain}")


class Judge:
    """`judge` with a memory: one parse a certificate for each set of roots.

    A full memory is emptied whole: peers are few beside `CACHE_SIZE`, and a
    flood of new certificates must not cost more than their handshakes did.
    """

    def __init__(self, roots: Mapping[str, Collection[bytes]]) -> None:
        self._roots: Mapping[str, frozenset[bytes]] = {}
        self._verdicts: dict[bytes, Verdict] = {}
        self.generation = 0
        self.replace_roots(roots)

    def replace_roots(self, roots: Mapping[str, Collection[bytes]]) -> None:
        """Take new roots (trust domain → DER); every verdict is made anew."""
        self._roots = {domain: frozenset(ders) for domain, ders in roots.items()}
        self._verdicts = {}
        self.generation += 1

    def verdict(self, chain: Sequence[bytes]) -> Verdict:
        """As `judge`.  The memory is keyed by leaf and anchor together."""
        if not chain:
            return judge(chain, self._roots)
        key = hashlib.sha256(chain[0]).digest() + hashlib.sha256(chain[-1]).digest()
        known = self._verdicts.get(key)
        if known is None:
            if len(self._verdicts) >= CACHE_SIZE:
                self._verdicts.clear()
            known = self._verdicts[key] = judge(chain, self._roots)
        return known
