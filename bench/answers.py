"""One request of each protocol, and what its answer must be."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

from bench import transfer
from bench.applications.start import BODY, MESSAGE, METHOD
from bench.h2client import Answer, ask
from bench.peers.running import HOST, Running
from bench.processes import BenchError

SECONDS = 5.0
MULTIPLEXED = ("h2", "grpc")
OPAQUE = ("tcp", "handshake")
GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}


def check_answer(peer: Running, protocol: str) -> None:
    """Status, body and trailers of an answer; bytes both ways over TCP.

    Raises BenchError, and OSError or EOFError where there is no answer.
    """
    if protocol in OPAQUE:
        transfer.check(peer.port)
        return
    answer = _through_h2(peer, protocol) if protocol in MULTIPLEXED else _through(peer)
    wanted = MESSAGE if protocol == "grpc" else BODY
    if (answer.status, answer.body) != (200, wanted):
        raise BenchError(
            f"{peer.name}: answers {answer.status} with {len(answer.body)} bytes, not 200 with 1 KB"
        )
    if protocol == "grpc" and answer.trailers.get("grpc-status") != "0":
        raise BenchError(f"{peer.name}: the trailers are {answer.trailers}, not grpc-status: 0")


def _through(peer: Running) -> Answer:
    request = urllib.request.Request(peer.url, headers={"Host": HOST})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return Answer(answer.status, body=answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, body=error.read())


def _through_h2(peer: Running, protocol: str) -> Answer:
    """Cleartext HTTP/2 with prior knowledge, to the outbound hop."""
    with socket.create_connection(("127.0.0.1", peer.port), SECONDS) as sock:
        return request_h2(sock, protocol)


def request_h2(sock: socket.socket, protocol: str) -> Answer:
    """The request that is measured.  Raises OSError, EOFError."""
    if protocol == "grpc":
        return ask(sock, HOST, METHOD, GRPC_HEADERS, MESSAGE)
    return ask(sock, HOST)
