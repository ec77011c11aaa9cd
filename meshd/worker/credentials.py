"""Keys, roots and the TLS contexts made from them.

Keys come from the agent as sealed memfds and are never files: OpenSSL reads
them through ``/proc/self/fd``.  A context costs about a millisecond and 34 kB,
so each is made at its first use after a change: a rotation of many identities
spreads itself over the requests that need them.

What Python's `ssl` leaves to us comes after the handshake: one context trusts the
union of all roots, so the anchor of the verified chain is compared with the
leaf's own trust domain afterwards, and the leaf's extensions are judged from
its DER, once per (chain, roots): `meshkit.identity.judge`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from meshkit.identity.judge import Judge
from meshkit.snapshot.preface import ALPN_TCP, ALPN_TCP_RAW

HTTP_ALPN = ["h2", "http/1.1"]
"""What every HTTP listener takes, in our order; a client of ours offers the one it will speak."""
TCP_ALPN = [ALPN_TCP, ALPN_TCP_RAW]
"""What a TCP port takes, and what a client offers it: the second is for foreign peers."""


class NoCredentials(Exception):
    """The identity has no certificate (yet): the caller answers UF with this text."""


@dataclass(slots=True)
class _Entry:
    cert: int
    key: int
    contexts: dict[str, ssl.SSLContext] = field(default_factory=dict)


class Credentials:
    """What this worker can prove, by identity (SPIFFE id or edge certificate name)."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._cadata = ""
        self.generation = 0

    def set_keys(self, name: str, cert_fd: int, key_fd: int) -> None:
        """Take ownership of two memfds: PEM chain (leaf first) and PEM key."""
        old = self._entries.get(name)
        self._entries[name] = _Entry(cert_fd, key_fd)
        if old is not None:
            os.close(old.cert)
            os.close(old.key)

    def names(self) -> list[str]:
        return sorted(self._entries)

    def set_roots(self, domains: Mapping[str, str]) -> None:
        """Trust exactly these (trust domain → PEM); contexts are remade at next use."""
        self._cadata = "\n".join(domains.values())
        self.generation += 1
        for entry in self._entries.values():
            entry.contexts.clear()

    def mesh_server(self, identity: str, tcp: bool = False) -> ssl.SSLContext:
        """TLS 1.3, client certificate required: the mesh port, for a port of that kind."""
        alpn = TCP_ALPN if tcp else HTTP_ALPN
        return self._context(identity, f"server {alpn[0]}", lambda: self._mesh_server(alpn))

    def mesh_client(self, identity: str, alpn: str = "http/1.1") -> ssl.SSLContext:
        """For connections that will speak one protocol, named as ALPN does."""
        return self._context(identity, alpn, lambda: self._mesh_client(alpn))

    def edge_server(self, certificate: str, min_version: str, tcp: bool = False) -> ssl.SSLContext:
        """A gateway's TLS server: no client certificate, the given least version.

        ``tcp``: what comes after TLS is not ours to know, so no ALPN is chosen; clients
        that end without a close_notify, as many do, have ended; and no tickets are sent,
        for one that a client has not read when it closes turns its end into a reset.
        """

        def make() -> ssl.SSLContext:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion[min_version.replace("TLSV", "TLSv")]
            if tcp:
                context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
                context.num_tickets = 0
            else:
                context.set_alpn_protocols(HTTP_ALPN)
            return context

        return self._context(certificate, f"{min_version} {tcp}", make)

    def _context(self, name: str, use: str, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        entry = self._entries.get(name)
        if entry is None:
            raise NoCredentials(f"no certificate for {name} on this host yet")
        context = entry.contexts.get(use)
        if context is None:
            context = make()
            fds = "/proc/self/fd/"
            context.load_cert_chain(f"{fds}{entry.cert}", f"{fds}{entry.key}")
            entry.contexts[use] = context
        return context

    def _mesh_server(self, alpn: list[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # no resumption between hosts; two tickets cost 300 µs a pair
        return self._mesh(context, alpn)

    def _mesh_client(self, alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # SPIFFE ids, judged after the handshake, name the peer
        return self._mesh(context, TCP_ALPN if alpn == ALPN_TCP else [alpn])

    def _mesh(self, context: ssl.SSLContext, alpn: list[str]) -> ssl.SSLContext:
        if not self._cadata:
            raise NoCredentials("no root certificates on this host yet")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._cadata)
        context.set_alpn_protocols(alpn)
        return context


def new_judge() -> Judge:
    """Verdicts on peers' chains; trusts nobody until `ders` of roots are given."""
    return Judge({})


def ders(domains: Mapping[str, str]) -> dict[str, list[bytes]]:
    """Trust domain → PEM bundle, to trust domain → DER of each certificate."""
    end = "-----END CERTIFICATE-----"
    return {
        domain: [
            ssl.PEM_cert_to_DER_cert(part.strip() + f"\n{end}\n")
            for part in pem.split(end)
            if part.strip()
        ]
        for domain, pem in domains.items()
    }
