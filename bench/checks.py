"""What must be true of a peer before, and after, it is worth measuring."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.answers import MULTIPLEXED, OPAQUE, SECONDS, check_answer, request_h2
from bench.applications.bulk import ANSWER
from bench.peers.running import HOST, Running
from bench.processes import BenchError

UNWRITTEN = 0.05
"""Part of an access log that may still be in a buffer: Envoy keeps up to 64 KiB for 10 s."""
WRITTEN_SECONDS = 15.0
"""Longer than any peer keeps lines in memory, on a busy machine too."""

LOGGED: Mapping[str, bytes] = {
    "http/1.1": b'"protocol":"HTTP/1.1"',
    "h2": b'"protocol":"HTTP/2',
    "grpc": b'"protocol":"HTTP/2',
}
"""What every line of both hops must say: so the protocol between the two was this one."""


def check(peer: Running, certificates: Path, protocol: str) -> None:
    """Raises BenchError unless it serves the caller, and nobody else."""
    try:
        check_answer(peer, protocol)
    except (OSError, EOFError) as error:
        raise BenchError(f"{peer.name}: no answer over {protocol}: {error}") from error
    if peer.leaf and not _serves(peer, certificates, peer.leaf, protocol):
        raise BenchError(f"{peer.name}: its inbound hop refuses the caller itself")
    strangers: dict[str, str | None] = {"without a client certificate": None}
    if peer.judges_principals:
        strangers["with a stranger's"] = "stranger"
    for what, leaf in strangers.items():
        if _serves(peer, certificates, leaf, protocol):
            raise BenchError(f"{peer.name}: its inbound hop serves a request {what}")


def _serves(peer: Running, certificates: Path, leaf: str | None, protocol: str) -> bool:
    """Whether the inbound hop serves a request over TLS with that certificate.

    In TLS 1.3 the client has shaken hands before the server refuses its
    certificate, so the refusal may only show at the first read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if peer.alpn:
        context.set_alpn_protocols(list(peer.alpn))
    if leaf is not None:
        context.load_cert_chain(certificates / f"{leaf}.pem", certificates / f"{leaf}.key")
    try:
        with (
            socket.create_connection(("127.0.0.1", peer.inbound), SECONDS) as sock,
            context.wrap_socket(sock, server_hostname=peer.sni) as tls,
        ):
            _check_tls(peer, tls)
            return _asks(tls, protocol)
    except TimeoutError as error:
        raise BenchError(f"{peer.name}: its inbound hop neither serves nor refuses") from error
    except (OSError, EOFError):  # an alert, or a reset
        return False


def _check_tls(peer: Running, tls: ssl.SSLSocket) -> None:
    if tls.version() != "TLSv1.3":
        raise BenchError(f"{peer.name}: its inbound hop speaks {tls.version()}")
    chosen = tls.selected_alpn_protocol()
    if chosen is not None and chosen not in peer.alpn:
        raise BenchError(f"{peer.name}: its inbound hop chose {chosen}, not {peer.alpn}")


def _asks(tls: ssl.SSLSocket, protocol: str) -> bool:
    if protocol in MULTIPLEXED:
        answer = request_h2(tls, protocol)  # a refused call is 200 too, with no message
        return answer.status == 200 and answer.body != b""
    tls.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    got = tls.recv(4096)
    return got == ANSWER if protocol in OPAQUE else got.startswith(b"HTTP/1.1 2")


class LogCount:
    """How many lines the access logs got: a proxy that logs less than it serves is faster."""

    def __init__(self, peer: Running, protocol: str) -> None:
        self._peer = peer
        self._says = LOGGED.get(protocol, b"")
        self._lines = dict.fromkeys(peer.logs, 0)
        self._requests = 0
        take(peer.logs)

    def add(self, requests: int) -> None:
        """After a load of `requests`: count, and empty the files of their lines."""
        self._requests += requests
        for log, lines in take(self._peer.logs, self._says).items():
            self._lines[log] += lines

    def verify(self, seconds: float = WRITTEN_SECONDS) -> None:
        """Raises BenchError where a hop logged too little, or another protocol.

        Up to ``seconds`` after the load: what is still in a buffer is waited for.
        """
        deadline = time.monotonic() + seconds
        while short := self._short():
            if time.monotonic() >= deadline:
                raise BenchError(f"{self._peer.name}: {short} for {self._requests} requests")
            time.sleep(0.05)
            self.add(0)

    def _short(self) -> str:
        """The first log that lacks lines, in words; "" when none does."""
        says = f" with {self._says.decode()}" if self._says else ""
        for log, lines in self._lines.items():
            if lines < self._requests * (1 - UNWRITTEN):
                return f"{lines} lines{says} in {log.name}"
        return ""


def take(logs: Iterable[Path], says: bytes = b"") -> dict[Path, int]:
    """Lines in each file that say that; the files are empty afterwards.

    HAProxy drops O_APPEND from its standard output and goes on at its old offset,
    which leaves a hole in front: it is skipped, not read.
    """
    counted = {}
    for log in logs:
        with log.open("r+b") as file:
            with contextlib.suppress(OSError):  # ENXIO: nothing but a hole, or nothing at all
                os.lseek(file.fileno(), 0, os.SEEK_DATA)
            counted[log] = sum(says in line for line in file)
            file.truncate(0)
    return counted
