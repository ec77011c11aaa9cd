"""The worker's side of the agent's socket.

The agent may be gone for hours: the worker tries the socket again every 0.1 s
and goes on serving.  Everything received is applied in order, so that keys and
listeners are there before the map that needs them.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

from meshd.worker.listeners import OWN
from meshd.worker.live import Refused
from meshd.worker.log import log
from meshd.worker.loop import Fiber
from meshkit import __version__
from meshkit.snapshot import messages
from meshkit.snapshot.messages import Frame, FrameError, FrameReader

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext

RETRY = 0.1
MAX_FDS = 64
"""Descriptors in one message: the kernel's own limit is 253."""


class Channel:
    """One connection to the agent: frames out, frames and descriptors in."""

    def __init__(self, ctx: WorkerContext, sock: socket.socket) -> None:
        self._ctx = ctx
        self._sock = sock
        self._waiting: Fiber | None = None
        self._reader = FrameReader()
        self.fds: deque[int] = deque()
        ctx.loop.register(sock.fileno(), self)

    def on_events(self, mask: int) -> None:
        if self._waiting is not None:
            self._ctx.loop.unpark(self._waiting)

    async def frames(self) -> list[Frame]:
        """The next frames; [] = the agent closed.  Raises FrameError, OSError."""
        while True:
            try:
                data, fds, _flags, _addr = socket.recv_fds(self._sock, 262_144, MAX_FDS)
            except BlockingIOError:
                await self._wait()
                continue
            self.fds.extend(fds)
            if not data:
                return []
            frames = self._reader.feed(data)
            if frames:
                return frames

    async def send(self, data: bytes, fds: list[int] | None = None) -> None:
        """All of `data`; descriptors go with its first byte."""
        view = memoryview(data)
        while view:
            try:
                sent = socket.send_fds(self._sock, [view], fds or [])
            except BlockingIOError:
                await self._wait()
                continue
            view, fds = view[sent:], None

    async def _wait(self) -> None:
        loop = self._ctx.loop
        self._waiting = loop.current
        try:
            await loop.park()
        finally:
            self._waiting = None

    def close(self) -> None:
        self._ctx.loop.unregister(self._sock.fileno())
        self._sock.close()
        while self.fds:
            os.close(self.fds.popleft())


def peer_allowed(sock: socket.socket) -> bool:
    """The agent runs as root or as ourselves; nobody else may configure a worker."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", raw)
    return uid in (0, os.getuid())


class Control:
    """Keeps a channel to the agent and applies what comes."""

    def __init__(self, ctx: WorkerContext, path: str, index: int) -> None:
        self._ctx = ctx
        self._path = path
        self._index = index
        self._channel: Channel | None = None

    async def run(self) -> None:
        while True:
            try:
                await self._session()
            except (OSError, FrameError) as error:
                if not isinstance(error, FileNotFoundError | ConnectionRefusedError):
                    log("warning", "agent_connection_lost", reason=str(error))
            await self._ctx.loop.sleep(RETRY)

    async def _session(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
            if not peer_allowed(sock):
                raise PermissionError("the agent's socket belongs to another user")
        except OSError:
            sock.close()
            raise
        self._channel = channel = Channel(self._ctx, sock)
        try:
            await self._hello(channel)
            while frames := await channel.frames():
                for frame in frames:
                    await self._apply(channel, frame)
        finally:
            self._channel = None
            channel.close()

    async def _hello(self, channel: Channel) -> None:
        ctx = self._ctx
        own = ctx.listeners.own()
        hello = messages.hello(
            index=self._index,
            pid=os.getpid(),
            version=__version__,
            revision=ctx.live.revision,
            listeners=list(own),
            blobs=list(ctx.live.blobs),
        )
        await channel.send(hello, list(own.values()))

    async def _apply(self, channel: Channel, frame: Frame) -> None:
        fds = [channel.fds.popleft() for _ in range(frame.fds)]
        header, ctx = frame.header, self._ctx
        match frame.type:
            case "roots":
                ctx.set_roots(header["domains"])
            case "keys":
                ctx.credentials.set_keys(header["name"], fds[0], fds[1])
            case "accesslog":
                ctx.log.use(fds[0] if fds else None)
            case "listener":
                owner = header.get("owner", 0) if header["lent"] else OWN
                ctx.listeners.add(header["id"], fds[0], owner)
            case "close":
                ctx.listeners.remove(header["id"], header["lent"])
            case "map":
                missing = ctx.live.propose(header)
                if missing:
                    await channel.send(messages.need(header["revision"], missing))
                else:
                    await self._switch(channel)
            case "blob":
                ctx.live.hold(header["hash"], frame.body)
                await self._switch(channel)
            case "ping":
                await channel.send(
                    messages.pong(
                        header["id"],
                        revision=ctx.live.revision,
                        connections=ctx.connections,
                        fibers=len(ctx.loop.fibers),
                    )
                )
            case "drain":
                ctx.drain(header["seconds"])
            case "stop":
                ctx.loop.stop()
            case other:
                log("warning", "unknown_message", type=other)
                for fd in fds:
                    os.close(fd)

    async def _switch(self, channel: Channel) -> None:
        live = self._ctx.live
        revision = live.proposed
        try:
            if not live.switch():
                return
        except Refused as error:
            self._ctx.bump("snapshot_refusals")
            await channel.send(messages.refuse(revision, str(error)))
            return
        self._ctx.configured()
        self._ctx.bump("snapshots")
        await channel.send(messages.ack(live.revision))

    async def tell(self, data: bytes) -> None:
        """Send a message if the agent is there; it asks again when it comes back."""
        if self._channel is not None:
            await self._channel.send(data)
