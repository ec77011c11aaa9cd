"""What the tests of TCP share: the two hosts with a TCP service between them."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hosts import CLUSTER, HOST, Hosts, workload
from limits import count
from rig import MESH, identity, listen, wait_for

from meshkit.names import ServiceName
from meshkit.snapshot.sni import mesh_sni
from meshkit.snapshot.types import (
    Cluster,
    Destination,
    Endpoint,
    HostConfig,
    ListenerSpec,
    OutboundHost,
    TCPRoute,
)

SNI = mesh_sni(ServiceName("default", "app"), 80, "main", MESH.domain)


@dataclass
class TCP:
    """`local` is the caller's port of the service; `plain` the service's own on its host."""

    hosts: Hosts
    local: int
    plain: int
    sockets: list[socket.socket] = field(default_factory=list)

    def dial(self, port: int = 0) -> socket.socket:
        conn = socket.create_connection(("127.0.0.1", port or self.local), timeout=10)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return conn

    def listener(self, side: str, **fields: object) -> ListenerSpec:
        """One more listener on a host, whose configuration is still to be sent."""
        sock = listen()
        self.sockets.append(sock)
        ident = f"{fields['kind']}-{len(self.sockets)}"
        spec = ListenerSpec(ident, address="127.0.0.1", port=sock.getsockname()[1], **fields)  # type: ignore[arg-type]
        getattr(self.hosts, side).listener(spec, sock)
        config = self.hosts.configs[side]
        self.hosts.configs[side] = replace(config, listeners=(*config.listeners, spec))
        return spec

    def outbound(self, *routes: TCPRoute, **cluster: object) -> OutboundHost:
        """The caller's view of the service."""
        base = Cluster(
            CLUSTER,
            "ROUND_ROBIN",
            (Endpoint("127.0.0.1", self.hosts.mesh, SNI),),
            (identity("app"),),
            protocol="TCP",
        )
        route = TCPRoute("tcp-route", (), (Destination(CLUSTER, 1),))
        clusters = {CLUSTER: replace(base, **cluster)}  # type: ignore[arg-type]
        return OutboundHost(HOST, "app", "default", {}, clusters, {80: routes or (route,)})

    def near(self, *hosts: OutboundHost, **config: object) -> None:
        """A new revision for the caller's host."""
        self.hosts.configs["near"] = replace(self.hosts.configs["near"], **config)  # type: ignore[arg-type]
        self.hosts.apply(*(hosts or (self.outbound(),)))

    def far(self, protocol: str = "TCP", mode: str = "PERMISSIVE", **config: object) -> None:
        """A new revision for the application's host: what its port speaks."""
        one = workload(self.hosts.application.port, mode)
        one = replace(one, ports=tuple(replace(p, protocol=protocol) for p in one.ports))
        self.hosts.configs["far"] = replace(
            self.hosts.configs["far"],
            workloads=(one,),
            **config,  # type: ignore[arg-type]
        )
        self.hosts.revision += 1
        frame = self.hosts.far.configure(
            self.hosts.configs["far"], revision=str(self.hosts.revision)
        )
        assert frame.type == "ack", frame

    def count(self, name: str, side: str = "near", **labels: str) -> int:
        return count(self.hosts, name, side, **labels)

    def closed(self, flags: str, side: str = "near") -> int:
        """Connections that ended with these flags."""
        return self.count("istio_tcp_connections_closed_total", side, response_flags=flags)

    def lines(self, side: str = "near") -> list[dict[str, object]]:
        """The access log of one host; lines come in batches."""
        path = getattr(self.hosts, side).access_log
        return [json.loads(line) for line in path.read_text().splitlines()]

    def line(self, side: str = "near") -> dict[str, object]:
        """The next (last) line, waited for."""
        wait_for(lambda: self.lines(side))
        return self.lines(side)[-1]


@contextlib.contextmanager
def tcp_hosts(hosts: Hosts) -> Iterator[TCP]:
    tcp = TCP(hosts, 0, 0)
    owner = "default/caller/main"
    spec = tcp.listener("near", kind="local", upstream=(HOST, 80), owner=owner, protocol="TCP")
    tcp.local = spec.port
    plain = tcp.listener(
        "far", kind="plain", service="default/app", service_port=80, protocol="TCP"
    )
    tcp.plain = plain.port
    tcp.far()
    tcp.near()
    yield tcp
    for sock in tcp.sockets:
        sock.close()


@pytest.fixture
def tcp(hosts: Hosts) -> Iterator[TCP]:
    """The two hosts, the service between them being TCP."""
    with tcp_hosts(hosts) as one:
        yield one


def echo(conn: socket.socket) -> None:
    """Bytes back as they come; the end after the end."""
    while data := conn.recv(65536):
        conn.sendall(data)


def whole(conn: socket.socket) -> bytes:
    """All until the end; a reset raises."""
    received = b""
    while data := conn.recv(65536):
        received += data
    return received


def mesh_client(
    hosts: Hosts, folder: Path, account: str = "caller", alpn: tuple[str, ...] = ("baremesh-tcp/1",)
) -> ssl.SSLContext:
    """A peer on the mesh port with a certificate of that account."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    pair = folder / f"{account}.pem"
    pair.write_bytes(b"".join(hosts.authority.issue(identity(account))))
    context.load_cert_chain(pair)
    return context


def far_config(tcp: TCP) -> HostConfig:
    return tcp.hosts.configs["far"]
