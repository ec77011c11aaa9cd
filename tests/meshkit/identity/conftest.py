"""Certificates with any shape, made on the spot: real code, chosen faults."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

BORN = 1_700_000_000
BOTH_USES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def usage(*, digital: bool = True, cert: bool = False, crl: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(digital, False, False, False, False, cert, crl, False, False)


@dataclass
class Issuer:
    name: str
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        self.certificate = self.sign(self.key, [], ca=True, key_usage=usage(cert=True), uses=None)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        uris: Sequence[str],
        *,
        ca: bool | None = False,
        key_usage: x509.KeyUsage | None = None,
        uses: Sequence[x509.ObjectIdentifier] | None = BOTH_USES,
        extra: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        start = dt.datetime.fromtimestamp(BORN, dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(77)
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(hours=24))
        )
        names = [x509.UniformResourceIdentifier(uri) for uri in uris] + list(extra)
        extensions: list[x509.ExtensionType] = []
        if names:
            extensions.append(x509.SubjectAlternativeName(names))
        if ca is not None:
            extensions.append(x509.BasicConstraints(ca=ca, path_length=None))
        if key_usage is not None:
            extensions.append(key_usage)
        if uses is not None:
            extensions.append(x509.ExtendedKeyUsage(uses))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())


@dataclass
class Pki:
    """Two trust domains and a maker of leaves."""

    own: Issuer
    foreign: Issuer
    key: ec.EllipticCurvePrivateKey

    @property
    def roots(self) -> dict[str, list[bytes]]:
        return {"td": [self.own.der], "other": [self.foreign.der]}

    def leaf(self, uris: Sequence[str], issuer: Issuer | None = None, **shape: object) -> bytes:
        shape.setdefault("key_usage", usage())
        signed = (issuer or self.own).sign(self.key, uris, **shape)  # type: ignore[arg-type]
        return signed.public_bytes(Encoding.DER)


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki(Issuer("own"), Issuer("foreign"), ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="session")
def key_usage() -> Callable[..., x509.KeyUsage]:
    return usage
