"""What must be true of a peer before, and after, it is worth measuring."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from bench.peers.nginx import BODY
from bench.peers.running import HOST, Running
from bench.processes import BenchError

SECONDS = 5.0
UNWRITTEN = 0.05
"""Part of an access log that may still be in a buffer: Envoy keeps up to 64 KiB for 10 s."""
WRITTEN_SECONDS = 15.0
"""Longer than any peer keeps lines in memory (nginx: 1 s), on a busy machine too."""


def check(peer: Running, certificates: Path) -> None:
    """Raises BenchError unless it serves the caller, and nobody else."""
    status, body = _through(peer)
    if (status, body) != (200, BODY):
        raise BenchError(f"{peer.name}: answers {status} with {len(body)} bytes, not 200 with 1 KB")
    strangers = {"without a client certificate": None, "with a stranger's": "stranger"}
    for what, leaf in strangers.items():
        answer = _inbound(peer, certificates, leaf)
        if answer.startswith(b"HTTP/1.1 2"):
            raise BenchError(f"{peer.name}: its inbound hop serves a request {what}")


def _through(peer: Running) -> tuple[int, str]:
    request = urllib.request.Request(peer.url, headers={"Host": HOST})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, answer.read().decode("latin-1")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("latin-1")
    except OSError as error:
        raise BenchError(f"{peer.name}: no answer: {error}") from error


def _inbound(peer: Running, certificates: Path, leaf: str | None) -> bytes:
    """What the inbound hop says to a request over TLS; b"" where it hangs up.

    In TLS 1.3 the client has shaken hands before the server refuses its
    certificate, so the refusal may only show at the first read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(peer.alpn))
    if leaf is not None:
        context.load_cert_chain(certificates / f"{leaf}.pem", certificates / f"{leaf}.key")
    try:
        with (
            socket.create_connection(("127.0.0.1", peer.inbound), SECONDS) as sock,
            context.wrap_socket(sock, server_hostname=peer.sni) as tls,
        ):
            if tls.version() != "TLSv1.3":
                raise BenchError(f"{peer.name}: its inbound hop speaks {tls.version()}")
            tls.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            return tls.recv(4096)
    except TimeoutError as error:
        raise BenchError(f"{peer.name}: its inbound hop neither serves nor refuses") from error
    except OSError:  # an alert, or a reset
        return b""


class LogCount:
    """How many lines the access logs got: a proxy that logs less than it serves is faster."""

    def __init__(self, peer: Running) -> None:
        self._peer = peer
        self._lines = dict.fromkeys(peer.logs, 0)
        self._requests = 0
        take(peer.logs)

    def add(self, requests: int) -> None:
        """After a load of `requests`: count, and empty the files of their lines."""
        self._requests += requests
        for log, lines in take(self._peer.logs).items():
            self._lines[log] += lines

    def verify(self, seconds: float = WRITTEN_SECONDS) -> None:
        """Raises BenchError where a hop has logged too little ``seconds`` after the load."""
        deadline = time.monotonic() + seconds
        while short := self._short():
            if time.monotonic() >= deadline:
                raise BenchError(f"{self._peer.name}: {short} for {self._requests} requests")
            time.sleep(0.05)
            self.add(0)

    def _short(self) -> str:
        """The first log that lacks lines, in words; "" when none does."""
        for log, lines in self._lines.items():
            if lines < self._requests * (1 - UNWRITTEN):
                return f"{lines} lines in {log.name}"
        return ""


def take(logs: Iterable[Path]) -> dict[Path, int]:
    """Lines in each file; the files are empty afterwards.

    HAProxy drops O_APPEND from its standard output and goes on at its old offset,
    which leaves a hole in front: it is skipped, not read.
    """
    counted = {}
    for log in logs:
        with log.open("r+b") as file:
            with contextlib.suppress(OSError):  # ENXIO: nothing but a hole, or nothing at all
                os.lseek(file.fileno(), 0, os.SEEK_DATA)
            counted[log] = sum(1 for _ in file)
            file.truncate(0)
    return counted
