"""Two hosts of a mesh made of two worker processes, and an application behind them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from rig import MESH, Authority, Rig, identity, listen, rig

from meshkit.names import ServiceName
from meshkit.snapshot.sni import mesh_sni
from meshkit.snapshot.types import (
    Cluster,
    Destination,
    Endpoint,
    HostConfig,
    ListenerSpec,
    OutboundHost,
    RetryPolicy,
    Route,
    Workload,
    WorkloadPort,
)

HOST = "app.default.svc.cluster.local"
CLUSTER = f"outbound|80||{HOST}"
Handler = Callable[[socket.socket], object]


class Application:
    """A TCP server; each connection is given to `handler` in a thread of its own."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections = 0
        self._sock = listen()
        self.port: int = self._sock.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        with conn:
            try:
                self.handler(conn)
            except OSError:
                pass

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)  # a close alone does not end the accept
        self._thread.join()
        self._sock.close()


def read_head(conn: socket.socket, buffer: bytes = b"") -> tuple[bytes, bytes]:
    """(head with its blank line, what came after it); (b"", b"") at the end."""
    while b"\r\n\r\n" not in buffer:
        data = conn.recv(65536)
        if not data:
            return b"", b""
        buffer += data
    head, _, rest = buffer.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def length_of(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def read_answer(conn: socket.socket, rest: bytes = b"") -> tuple[bytes, bytes]:
    """Head and body of an answer with a length."""
    head, body = read_head(conn, rest)
    while len(body) < length_of(head):
        data = conn.recv(65536)
        if not data:
            break
        body += data
    return head, body


def echo(conn: socket.socket) -> None:
    """Answers every request with its own head and body as the body."""
    rest = b""
    while True:
        head, rest = read_head(conn, rest)
        if not head:
            return
        length = length_of(head)
        while len(rest) < length:
            rest += conn.recv(65536)
        body, rest = rest[:length], rest[length:]
        answer = head + body
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)


def get(path: str = "/", host: str = "app", headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode()


def workload(port: int, mode: str = "PERMISSIVE") -> Workload:
    return Workload(
        "default/app/main",
        "app",
        "default",
        "main",
        identity("app"),
        65534,
        {"app": "app", "version": "v1"},
        (WorkloadPort(80, "127.0.0.1", port, "HTTP", mode),),  # type: ignore[arg-type]
    )


@dataclass
class Hosts:
    """`near` holds the caller, `far` the application; both trust `authority`."""

    authority: Authority
    near: Rig
    far: Rig
    proxy: int
    mesh: int
    plain: int
    application: Application
    configs: dict[str, HostConfig] = field(default_factory=dict)
    far_fds: list[int] = field(default_factory=list)
    """The agent's own copies of the far host's listening sockets."""
    revision: int = 1
    protocol: str = "HTTP"
    """What the application speaks; see `speak`."""

    def use(self, handler: Handler) -> None:
        self.application.handler = handler

    def outbound(self, **route: object) -> OutboundHost:
        """The caller's view of the application, with fields of its route replaced."""
        sni = mesh_sni(ServiceName("default", "app"), 80, "main", MESH.domain)
        cluster = Cluster(
            *(CLUSTER, "LEAST_REQUEST", (Endpoint("127.0.0.1", self.mesh, sni),)),
            accounts=(identity("app"),),
            protocol=self.protocol,
        )
        base = Route("app-route", (), (Destination(CLUSTER, 1),), retry=RetryPolicy())
        routes = {80: (replace(base, **route),)}  # type: ignore[arg-type]
        return OutboundHost(HOST, "app", "default", routes, {CLUSTER: cluster})

    def apply(self, *hosts: OutboundHost) -> None:
        """Give the caller's worker a new revision."""
        self.revision += 1
        frame = self.near.configure(self.configs["near"], {"default": hosts}, str(self.revision))
        assert frame.type == "ack", frame

    def speak(self, protocol: str, **route: object) -> None:
        """From now on the application's port is of this protocol, on both hosts."""
        self.protocol = protocol
        far = self.configs["far"]
        port = replace(far.workloads[0].ports[0], protocol=protocol)
        app = replace(far.workloads[0], ports=(port,))
        self.configs["far"] = replace(far, workloads=(app,))
        self.revision += 1
        frame = self.far.configure(self.configs["far"], revision=str(self.revision))
        assert frame.type == "ack", frame
        self.apply(self.outbound(**route))

    def connect(self) -> socket.socket:
        conn = socket.create_connection(("127.0.0.1", self.proxy), timeout=10)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return conn

    def request(self, data: bytes) -> tuple[bytes, bytes]:
        """One request on a connection of its own: (head, body with a length)."""
        with self.connect() as conn:
            conn.sendall(data)
            return read_answer(conn)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """A caller's host and an application's host."""
    authority = Authority()
    application = Application(echo)
    with rig(tmp_path, 0) as near, rig(tmp_path, 1) as far:
        proxy, mesh, plain = listen(), listen(), listen()
        for one in (near, far):
            one.trust(authority)
            one.log_requests()
        near.keys(identity("caller"), authority.issue(identity("caller")))
        far.keys(identity("app"), authority.issue(identity("app")))
        ports = [sock.getsockname()[1] for sock in (proxy, mesh, plain)]
        specs = (
            ListenerSpec("proxy", "proxy", "127.0.0.1", ports[0]),
            ListenerSpec("mesh", "mesh", "127.0.0.1", ports[1]),
            ListenerSpec("plain", "plain", "127.0.0.1", ports[2], "default/app", 80),
        )
        near.listener(specs[0], proxy)
        far.listener(specs[1], mesh)
        far.listener(specs[2], plain)
        caller = Workload(
            "default/caller/main",
            "caller",
            "default",
            "main",
            identity("caller"),
            os.getuid(),
            {"app": "caller"},
            (),
        )
        both = Hosts(authority, near, far, ports[0], ports[1], ports[2], application)
        both.far_fds = [mesh.fileno(), plain.fileno()]
        both.configs = {
            "near": HostConfig("near", MESH, specs[:1], (caller,)),
            "far": HostConfig("far", MESH, specs[1:], (workload(application.port),)),
        }
        assert far.configure(both.configs["far"]).type == "ack"
        both.apply(both.outbound())
        yield both
    application.close()
