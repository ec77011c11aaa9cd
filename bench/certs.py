"""Certificates for the peers' two hops: one root, one leaf each with a SPIFFE URI.

`stranger` is signed by the same root but is not the caller that the inbound hop
admits: with it the principal check is tried before anything is measured.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CLIENT = "spiffe://cluster.local/ns/default/sa/client"
LEAVES = {
    "client": CLIENT,
    "server": "spiffe://cluster.local/ns/default/sa/server",
    "stranger": "spiffe://cluster.local/ns/default/sa/stranger",
}


def make(folder: Path) -> None:
    """Write root.pem, and <leaf>.pem, .key and .both (chain and key together)."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _sign("root", "", root_key, "root", root_key, ca=True)
    (folder / "root.pem").write_bytes(_pem(root))
    for name, uri in LEAVES.items():
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _pem(_sign(name, uri, key, "root", root_key, ca=False))
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / f"{name}.pem").write_bytes(leaf)
        (folder / f"{name}.key").write_bytes(secret)
        (folder / f"{name}.both").write_bytes(leaf + secret)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _sign(
    subject: str,
    uri: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if uri:
        names = [x509.UniformResourceIdentifier(uri), x509.DNSName("svc0")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
