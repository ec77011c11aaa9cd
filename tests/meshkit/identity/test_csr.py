from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from meshkit.identity import csr

ME = "spiffe://td/ns/default/sa/reviews"
P256 = ec.generate_private_key(ec.SECP256R1())
SHA256 = hashes.SHA256()


def request(*extensions: x509.ExtensionType, key: Any = P256, digest: Any = SHA256) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, digest).public_bytes(Encoding.PEM)


def names(*values: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(values)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def usage(cert: bool, crl: bool) -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, cert, crl, False, False)


def test_our_own_request_is_accepted_and_keeps_its_key() -> None:
    key_pem, request_pem = csr.make_key_and_request()
    key = load_pem_private_key(key_pem, None)
    assert csr.judge_request(request_pem, ME) == key.public_key()
    assert csr.judge_request(request_pem.decode(), ME) == key.public_key()


@pytest.mark.parametrize(
    "pem",
    [
        request(names(uri(ME))),
        request(x509.BasicConstraints(ca=False, path_length=None), usage(False, False)),
        request(key=ec.generate_private_key(ec.SECP384R1())),
        request(key=rsa.generate_private_key(65537, 2048)),
    ],
)
def test_what_asks_for_no_more_is_accepted(pem: bytes) -> None:
    csr.judge_request(pem, ME)


@pytest.mark.parametrize(
    ("pem", "code"),
    [
        (request(names(uri("spiffe://td/ns/default/sa/admin"))), "csr_identity"),
        (request(names(uri(ME), uri("spiffe://td/host/vm2"))), "csr_identity"),
        (request(names(uri(ME), uri(ME))), "csr_names"),
        (request(names(uri(ME), x509.DNSName("example.org"))), "csr_names"),
        (request(names(x509.DNSName("example.org"))), "csr_names"),
        (request(x509.BasicConstraints(ca=True, path_length=0)), "csr_authority"),
        (request(usage(True, False)), "csr_authority"),
        (request(usage(False, True)), "csr_authority"),
        (request(key=rsa.generate_private_key(65537, 1024)), "csr_key"),
        (request(key=ec.generate_private_key(ec.SECP521R1())), "csr_key"),
        (request(key=ec.generate_private_key(ec.SECP256K1())), "csr_key"),
        (request(key=ed25519.Ed25519PrivateKey.generate(), digest=None), "csr_key"),
        (b"", "csr_malformed"),
        (
            b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
            "csr_malformed",
        ),
        (request() + b"\n" * csr.MAX_REQUEST, "csr_too_large"),
    ],
)
def test_each_other_is_refused_by_name(pem: bytes, code: str) -> None:
    with pytest.raises(csr.RequestRefused) as refusal:
        csr.judge_request(pem, ME)
    assert refusal.value.code == code and str(refusal.value)


def test_a_signature_of_another_key_proves_nothing() -> None:
    der = bytearray(x509.load_pem_x509_csr(request()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(csr.RequestRefused) as refusal:
        csr.judge_request(broken, ME)
    assert refusal.value.code == "csr_signature"


def test_every_cut_of_a_request_is_refused_cleanly() -> None:
    whole = request(names(uri(ME)))
    for length in range(0, len(whole) - 30, 7):
        with pytest.raises(csr.RequestRefused):
            csr.judge_request(whole[:length], ME)
