"""PEM in and out, and the fingerprint by which a root is known before it is trusted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

MAX_CERTIFICATES = 64
"""A file or message with more is not a chain, nor the roots of one trust domain."""

_BLOCK = re.compile(
    rb"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+?-----END CERTIFICATE-----\r?\n?"
)


def certificates(pem: str | bytes) -> list[x509.Certificate]:
    """The certificates of a PEM text, in order; ValueError for none or for a bad one."""
    data = pem.encode() if isinstance(pem, str) else pem
    blocks = _BLOCK.findall(data)
    if not blocks or len(blocks) > MAX_CERTIFICATES:
        raise ValueError(f"expected 1–{MAX_CERTIFICATES} PEM certificates, found {len(blocks)}")
    return [x509.load_pem_x509_certificate(block) for block in blocks]


def belongs(key: bytes, leaf: x509.Certificate) -> bool:
    """Whether a PEM private key is the one of a certificate.  ValueError: no such key."""
    return load_pem_private_key(key, None).public_key() == leaf.public_key()


def to_der(pem: str | bytes) -> list[bytes]:
    """The DER of each certificate of a PEM text."""
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates(pem)]


def from_der(ders: Iterable[bytes]) -> str:
    """PEM of DER certificates, in order."""
    return "".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in ders
    )


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def is_issued_in_order(chain: Iterable[x509.Certificate]) -> bool:
    """Whether each certificate is signed by the next: a chain, the leaf first."""
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except Exception:
            return False
    return True
