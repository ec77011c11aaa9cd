"""Requests for certificates (PKCS #10, RFC 2986): making one, judging one.

A request gives its public key and the proof that the requester holds the
private one.  It gives nothing else: the identity comes from what the
authenticated caller is entitled to.  A request that asks for more is not
trimmed but refused, because whoever sent it expects something else than it gets.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

MAX_REQUEST = 16 * 1024
"""Bytes of PEM: an RSA-4096 request with a few extensions is under 3 KiB."""
MIN_RSA, MAX_RSA = 2048, 4096
"""Bits.  Above, one verification costs the server more than it costs the peer to ask."""
CURVES = ("secp256r1", "secp384r1")

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class RequestRefused(ValueError):
    """A request that is not signed.  ``code`` is stable, the text is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def make_key() -> bytes:
    """A new P-256 key, PKCS #8 PEM, not encrypted.  Chance comes from OpenSSL."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_request(key_pem: bytes) -> bytes:
    """A request (PEM) for a certificate of this key, asking for nothing but that."""
    key = load_pem_private_key(key_pem, None)
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ValueError("expected an EC or RSA key")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def make_key_and_request() -> tuple[bytes, bytes]:
    """A new key and its request, both PEM."""
    key = make_key()
    return key, make_request(key)


def judge_request(pem: str | bytes, identity: str) -> PublicKey:
    """The public key to certify as ``identity``, or `RequestRefused`.

    The request may repeat ``identity`` as its one URI name; any other name, or
    the wish to be an authority, is refused.
    """
    request = _read(pem)
    key = _check_key(request)
    _check_names(request, identity)
    _check_wishes(request)
    return key


def _read(pem: str | bytes) -> x509.CertificateSigningRequest:
    data = pem.encode() if isinstance(pem, str) else pem
    if len(data) > MAX_REQUEST:
        raise RequestRefused("csr_too_large", f"the request is over {MAX_REQUEST} bytes")
    try:
        return x509.load_pem_x509_csr(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RequestRefused("csr_malformed", "not a PEM certificate request") from error


def _check_key(request: x509.CertificateSigningRequest) -> PublicKey:
    try:
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RequestRefused("csr_key", "a key of an unsupported kind") from error
    accepted = _accepted_key(key)
    try:
        if request.is_signature_valid:
            return accepted
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        pass
    raise RequestRefused("csr_signature", "the request is not signed by its own key")


def _accepted_key(key: object) -> PublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name in CURVES:
            return key
        raise RequestRefused("csr_key", f"curve {key.curve.name}; use P-256 or P-384")
    if isinstance(key, rsa.RSAPublicKey):
        if MIN_RSA <= key.key_size <= MAX_RSA:
            return key
        raise RequestRefused(
            "csr_key", f"RSA of {key.key_size} bits; use {MIN_RSA}–{MAX_RSA}, or better P-256"
        )
    raise RequestRefused("csr_key", "neither EC nor RSA; use P-256")


def _check_names(request: x509.CertificateSigningRequest, identity: str) -> None:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    except ValueError as error:
        raise RequestRefused("csr_malformed", "its extensions cannot be read") from error
    for name in names:
        if not isinstance(name, x509.UniformResourceIdentifier):
            raise RequestRefused("csr_names", "it asks for a name that is not a SPIFFE id")
        if name.value != identity:
            raise RequestRefused("csr_identity", f"it asks for {name.value}, not for {identity}")
    if len(list(names)) > 1:
        raise RequestRefused("csr_names", "it asks for several names")


def _check_wishes(request: x509.CertificateSigningRequest) -> None:
    try:
        extensions = list(request.extensions)
    except ValueError as error:
        raise RequestRefused("csr_malformed", "its extensions cannot be read") from error
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise RequestRefused("csr_authority", "it asks to be an authority (CA:TRUE)")
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            raise RequestRefused("csr_authority", "it asks for certSign or crlSign")
