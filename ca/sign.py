"""Template and key → certificate (RFC 5280 profile of X509-SVID).  Decides nothing."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.template import Template, general_name

USES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority's certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def sign(template: Template, issuer: Signer) -> x509.Certificate:
    """A certificate as the template says, under a random serial number."""
    return _sign(template, issuer.certificate.subject, issuer.key)


def self_sign(template: Template, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A root."""
    return _sign(template, _name(template.subject), key)


def _sign(
    template: Template, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(template.subject))
        .issuer_name(issuer)
        .public_key(template.public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromtimestamp(template.not_before, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(template.not_after, dt.UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(template.public_key), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    )
    add = _leaf_extensions if template.role == "leaf" else _authority_extensions
    return add(builder, template).sign(key, hashes.SHA256())


def _name(subject: str) -> x509.Name:
    if not subject:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])


def _leaf_extensions(
    builder: x509.CertificateBuilder, template: Template
) -> x509.CertificateBuilder:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(template.identity)]
    names += map(general_name, template.names)
    # RFC 5280 4.2.1.6: critical, because the subject is empty.
    return (
        builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(leaf=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(USES), critical=False)
    )


def _authority_extensions(
    builder: x509.CertificateBuilder, template: Template
) -> x509.CertificateBuilder:
    length = 1 if template.role == "root" else 0
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=length), critical=True
    ).add_extension(_usage(leaf=False), critical=True)


def _usage(leaf: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=leaf,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        encipher_only=False,
        decipher_only=False,
    )
