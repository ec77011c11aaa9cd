"""A worker in 100 lines: the real messages, no traffic but "who are you?".

Connects, says hello, takes descriptors and maps, answers pings; whoever connects
to a listener that its live configuration names is told ``<index> <pid>`` and
sent away.  ``SIGUSR1`` makes it deaf (it stops reading the agent).
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from typing import Any

from meshkit.snapshot import messages
from meshkit.snapshot.codec import decode
from meshkit.snapshot.messages import FrameReader
from meshkit.snapshot.types import HostConfig


class FakeWorker:
    def __init__(self, index: int, path: str) -> None:
        self.index, self.path = index, path
        self.revision = ""
        self.named: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.map: dict[str, Any] = {}
        self.own: dict[str, socket.socket] = {}
        self.lent: dict[str, list[socket.socket]] = {}
        self.fds: deque[int] = deque()

    def run(self) -> None:
        while True:
            agent = socket.socket(socket.AF_UNIX)
            try:
                agent.connect(self.path)
                self.session(agent)
            except OSError:
                pass
            finally:
                agent.close()
            self.accept(0.1)

    def session(self, agent: socket.socket) -> None:
        hello = messages.hello(
            index=self.index,
            pid=os.getpid(),
            version="fake",
            revision=self.revision,
            listeners=list(self.own),
            blobs=list(self.blobs),
        )
        socket.send_fds(agent, [hello], [s.fileno() for s in self.own.values()])
        frames = FrameReader()
        agent.setblocking(False)
        while True:
            self.accept(0.02, agent)
            try:
                data, fds, _, _ = socket.recv_fds(agent, 65536, 64)
            except BlockingIOError:
                continue
            self.fds.extend(fds)
            if not data:
                return
            for frame in frames.feed(data):
                self.handle(agent, frame)

    def handle(self, agent: socket.socket, frame: messages.Frame) -> None:
        fds = [self.fds.popleft() for _ in range(frame.fds)]
        head = frame.header
        match frame.type:
            case "listener":
                sock = socket.socket(fileno=fds.pop())
                if head["lent"]:
                    self.lent.setdefault(head["id"], []).append(sock)
                else:
                    self.own[head["id"]] = sock
            case "close" if head["lent"]:
                for sock in self.lent.pop(head["id"], []):
                    sock.close()
            case "close":
                self.own.pop(head["id"]).close()
            case "map":
                self.map = dict(head)
                wanted = {head["host"]} | {h for s in head["set"].values() for h in s.values()}
                missing = sorted(wanted - set(self.blobs))
                if missing:
                    agent.send(messages.need(head["revision"], missing))
                self.switch(agent)
            case "blob":
                self.blobs[head["hash"]] = frame.body
                self.switch(agent)
            case "ping":
                pong = messages.pong(head["id"], revision=self.revision, connections=3, fibers=1)
                agent.send(pong)
            case "stop":
                sys.exit(0)
        for fd in fds:
            os.close(fd)

    def switch(self, agent: socket.socket) -> None:
        if self.map["host"] not in self.blobs:
            return
        config = decode(HostConfig, self.blobs[self.map["host"]])
        if config.host == "refuse-me":
            agent.send(messages.refuse(self.map["revision"], "asked to refuse"))
            return
        self.named = {spec.id for spec in config.listeners}
        self.revision = self.map["revision"]
        agent.send(messages.ack(self.revision))

    def accept(self, seconds: float, agent: socket.socket | None = None) -> None:
        """Answer whoever waits on a listener, for at most this long."""
        with selectors.DefaultSelector() as selector:
            lent = [(name, s) for name, group in self.lent.items() for s in group]
            for name, sock in [*self.own.items(), *lent]:
                if name in self.named:
                    selector.register(sock, selectors.EVENT_READ)
            if agent is not None:
                selector.register(agent, selectors.EVENT_READ)
            if not selector.get_map():
                time.sleep(seconds)
                return
            for key, _ in selector.select(seconds):
                if key.fileobj is not agent:
                    assert isinstance(key.fileobj, socket.socket)
                    self.answer(key.fileobj)

    def answer(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.send(f"{self.index} {os.getpid()}\n".encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--index", type=int)
    parser.add_argument("--socket")
    parser.add_argument("--counters")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    FakeWorker(arguments.index, arguments.socket).run()


main()
