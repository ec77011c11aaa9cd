"""TLS of the control plane: 1.3 only, and the chain that was verified.

The server asks for a client certificate and takes "none" for an answer (join has
none); what a call requires is decided per call in `ca.access`.  Only roots of our
own trust domain are loaded: no other mesh has business here.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

_DER = 2
"""``_ssl.ENCODING_DER``, which the ssl module does not re-export."""


def verified_chain(tls: Any) -> list[bytes]:
    """DER of the chain that OpenSSL verified, leaf first and root last; empty without one.

    ``tls`` is an `ssl.SSLObject` or `ssl.SSLSocket`.  Python 3.13 gives the method
    a public name; until then it is on the inner object (bpo-18233).
    """
    return [
        certificate.public_bytes(_DER) for certificate in tls._sslobj.get_verified_chain() or ()
    ]


def presented_chain(tls: Any) -> list[bytes]:
    """DER of what the peer sent, verified or not."""
    return [
        certificate.public_bytes(_DER) for certificate in tls._sslobj.get_unverified_chain() or ()
    ]


def server_context(key: bytes, chain: str, root: str) -> ssl.SSLContext:
    """``chain`` is sent with the root at its end, so that a joiner can find it there."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    load_pair(context, key, (chain + root).encode())
    context.load_verify_locations(cadata=root)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(roots: str) -> ssl.SSLContext:
    """Verifies against ``roots`` (PEM); who the server is, the caller judges by SPIFFE id."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=roots)
    return context


def unverified_context() -> ssl.SSLContext:
    """For looking at a server's chain before any root is known; nothing may be sent over it."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    return context


def load_pair(context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
    """Give a key and its chain to a context without leaving a file behind.

    ``load_cert_chain`` reads files only: an anonymous one, where the system has it.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key + chain)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.pem"
        path.touch(0o600)
        path.write_bytes(key + chain)
        context.load_cert_chain(path)
