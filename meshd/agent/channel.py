"""One worker's connection: frames and descriptors both ways, over a trio socket."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Sequence

import trio

from meshd.agent import secrets
from meshd.agent.ledger import (
    SendAccessLog,
    SendClose,
    SendKeys,
    SendListener,
    SendMap,
    SendRoots,
    Step,
)
from meshd.agent.sockets import Sockets
from meshkit.snapshot import messages
from meshkit.snapshot.diff import difference
from meshkit.snapshot.messages import Frame, FrameReader

MAX_DESCRIPTORS = 253
"""SCM_MAX_FD: the most the kernel passes with one message."""
READ = 262_144
_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


def peer_credentials(sock: trio.socket.SocketType) -> tuple[int, int]:
    """(pid, uid) of the process on the other side, from the kernel."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return int(pid), int(uid)


class Channel:
    """Owns the socket and every descriptor that came and was not taken."""

    def __init__(self, sock: trio.socket.SocketType):
        self._sock = sock
        self._frames = FrameReader()
        self._descriptors: deque[int] = deque()
        self._writing = trio.Lock()

    async def receive(self) -> AsyncIterator[Frame]:
        """Frames until the worker closes.  Raises FrameError, OSError."""
        while True:
            data, ancillary, _, _ = await self._sock.recvmsg(READ, _ANCILLARY)
            self._keep(ancillary)
            if not data:
                return
            for frame in self._frames.feed(data):
                yield frame

    def _keep(self, ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                for descriptor in received:
                    os.set_inheritable(descriptor, False)
                self._descriptors.extend(received)

    def take(self, frame: Frame) -> list[int]:
        """The descriptors of a frame; the caller owns them.  FrameError if some are missing."""
        if len(self._descriptors) < frame.fds:
            raise messages.FrameError(f"{frame.type}: descriptors are missing")
        return [self._descriptors.popleft() for _ in range(frame.fds)]

    async def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """One frame; descriptors go with its first byte."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        async with self._writing:
            sent = await self._sock.sendmsg([data], ancillary if descriptors else [])
            with memoryview(data) as view:
                while sent < len(view):
                    sent += await self._sock.send(view[sent:])

    def close(self) -> None:
        self._sock.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())


async def perform(channel: Channel, step: Step, sockets: Sockets) -> None:
    """Send what the ledger planned."""
    match step:
        case SendRoots(domains):
            await channel.send(messages.roots(domains))
        case SendKeys(name, pair):
            await _send_keys(channel, name, pair.chain, pair.key)
        case SendAccessLog(descriptor):
            opened = descriptor is not None
            await channel.send(
                messages.access_log(open_=opened), [descriptor] if descriptor is not None else []
            )
        case SendListener(listener, owner, lent):
            sock = sockets.get(listener, owner)
            if sock is not None:
                await channel.send(_listener(listener, owner, lent), [sock.fileno()])
        case SendClose(listener, lent):
            await channel.send(messages.close(listener, lent=lent))
        case SendMap(before, after):
            await channel.send(difference(before, after).encode())


def _listener(listener: str, owner: int, lent: bool) -> bytes:
    # ``owner`` tells two loans of one id apart; workers that do not know it ignore it.
    header = {"type": "listener", "id": listener, "lent": lent, "owner": owner, "fds": 1}
    return messages.encode_frame(header)


async def _send_keys(channel: Channel, name: str, chain: bytes, key: bytes) -> None:
    descriptors = [secrets.sealed("chain", chain)]
    try:
        descriptors.append(secrets.sealed("key", key))
        await channel.send(messages.keys(name), descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
