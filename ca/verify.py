"""Reads back what was signed, with the eyes of a peer, before anybody gets it.

A fault here is a fault of this program or of its keys, never of the caller: the
certificate is dropped, the call fails and the log says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.template import Template
from meshkit.identity.judge import judge
from meshkit.identity.pem import is_issued_in_order


class OutputFault(Exception):
    """A certificate of ours that does not say what its template said."""


def verify_leaf(
    template: Template, chain: Sequence[x509.Certificate], trust_domain: str, now: float
) -> None:
    """Judge leaf, intermediate and root as a peer would; OutputFault if it would refuse."""
    leaf, *above = [_reread(certificate) for certificate in chain]
    _require(is_issued_in_order([leaf, *above]), "the chain's signatures do not hold")
    ders = [certificate.public_bytes(Encoding.DER) for certificate in (leaf, *above)]
    verdict = judge(ders, {trust_domain: ders[-1:]})
    refusal = verdict.refusal_at(now, {template.identity})
    _require(not refusal, f"a peer would refuse it: {refusal} {verdict.detail}")
    _check_fields(template, leaf)
    issuer_ends = min(c.not_valid_after_utc for c in above)
    _require(leaf.not_valid_after_utc <= issuer_ends, "it outlives its issuer")


def verify_authority(
    template: Template, certificate: x509.Certificate, issuer: x509.Certificate
) -> None:
    """An authority of ours: CA:TRUE with its path length, signed by ``issuer``."""
    again = _reread(certificate)
    _require(is_issued_in_order([again, issuer]), "the signature does not hold")
    constraints = again.extensions.get_extension_for_class(x509.BasicConstraints).value
    expected = 1 if template.role == "root" else 0
    _require(constraints.ca and constraints.path_length == expected, "wrong basic constraints")
    _check_fields(template, again)


def _reread(certificate: x509.Certificate) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER))


def _check_fields(template: Template, certificate: x509.Certificate) -> None:
    _require(
        certificate.not_valid_before_utc.timestamp() == template.not_before
        and certificate.not_valid_after_utc.timestamp() == template.not_after,
        "other validity than the template's",
    )
    encoded = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    same_key = certificate.public_key().public_bytes(*encoded) == (
        template.public_key.public_bytes(*encoded)
    )
    _require(same_key, "another key than the request's")


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise OutputFault(fault)
