"""What really passes between two hosts: a capture on the loopback, and TLS as bytes.

A packet socket (root only) sees both directions of every loopback connection,
each packet twice; segments are put together by their sequence numbers.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread
from types import TracebackType

ETH_P_IP = 0x0800
_BUFFER = 16 << 20
SETTLE = 0.3
"""Seconds for the last packets to be read."""
TLS_1_3 = b"\x03\x04"
HANDSHAKE, APPLICATION_DATA = 22, 23
SERVER_HELLO = 2
SUPPORTED_VERSIONS = 43

Flow = tuple[str, int, str, int]
"""Source address and port, destination address and port."""


class Capture:
    """Payload of the TCP connections of one port, from entering the block to leaving it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._segments: dict[Flow, dict[int, bytes]] = defaultdict(dict)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.settimeout(0.2)
        self._socket.bind(("lo", ETH_P_IP))
        self._ended = False
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        time.sleep(SETTLE)
        self._ended = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        # The machine's other traffic keeps coming: what matters was queued before the end.
        while not self._ended:
            with suppress(TimeoutError):
                self._take(self._socket.recv(1 << 17))

    def _take(self, packet: bytes) -> None:
        head = (packet[0] & 15) * 4
        if packet[9] != socket.IPPROTO_TCP:
            return
        source, target, sequence = struct.unpack_from("!HHI", packet, head)
        if self._port not in (source, target):
            return
        length = int.from_bytes(packet[2:4], "big") or len(packet)
        payload = packet[head + (packet[head + 12] >> 4) * 4 : length]
        if payload:
            here, there = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
            self._segments[here, source, there, target][sequence] = payload

    def streams(self) -> dict[Flow, bytes]:
        """The bytes of each direction of each connection, in order."""
        return {
            flow: b"".join(data for _, data in sorted(segments.items()))
            for flow, segments in self._segments.items()
        }


def records(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the TLS records of one direction; ValueError where it is no TLS."""
    at = 0
    while at < len(stream):
        kind, version, length = struct.unpack_from("!BHH", stream, at)
        if kind not in (20, 21, HANDSHAKE, APPLICATION_DATA) or version >> 8 != 3:
            raise ValueError(f"not a TLS record at byte {at}: {stream[at : at + 40]!r}")
        yield kind, stream[at + 5 : at + 5 + length]
        at += 5 + length


def server_version(stream: bytes) -> bytes:
    """The version that a ServerHello selects (RFC 8446, 4.1.3 and 4.2.1)."""
    kind, content = next(records(stream))
    if kind != HANDSHAKE or content[0] != SERVER_HELLO:
        raise ValueError("the first record is no ServerHello")
    at = 4 + 2 + 32  # message head, legacy version, random
    at += 1 + content[at]  # session id
    at += 2 + 1 + 2  # cipher suite, compression, length of the extensions
    while at < len(content):
        extension, length = struct.unpack_from("!HH", content, at)
        if extension == SUPPORTED_VERSIONS:
            return content[at + 4 : at + 4 + length]
        at += 4 + length
    return content[4:6]
