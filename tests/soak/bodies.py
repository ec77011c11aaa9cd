"""One long body through the mesh, either way, over each protocol, as real peers send it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tests.parts.find import program
from tests.peers.mesh import PeerMesh, Service
from tests.peers.node_process import Node
from tests.peers.tcp_apps import TCPApplication

CHUNK = bytes(256 << 10)
CURL = {"http/1.1": "--http1.1", "h2": "--http2-prior-knowledge"}
DIRECTIONS = ("up", "down")


@dataclass(frozen=True, slots=True)
class Applications:
    """The services that bodies go to, by protocol, and the node that calls as a client."""

    services: dict[str, Service]
    client: Node

    def transfer(self, protocol: str, direction: str, size: int) -> int:
        """Send ``size`` bytes to the application, or have it send them; how many arrived."""
        port = self.services[protocol].local
        if protocol in CURL:
            move = curl_up if direction == "up" else curl_down
            return move(CURL[protocol], port, size)
        if protocol == "tcp":
            return tcp_up(port, size) if direction == "up" else tcp_down(port, size)
        do = "websocket_upload" if direction == "up" else "websocket_download"
        return int(self.client.ask(do, port=port, size=size)["length"])


def applications(mesh: PeerMesh, server: Node, client: Node) -> Applications:
    """Node's servers, and a TCP one that counts or pours, each behind the mesh."""
    ports = server.ask("load_serve")
    services = {
        "http/1.1": mesh.add("soak-h1", "HTTP", ports["http"]),
        "h2": mesh.add("soak-h2", "HTTP2", ports["http2"]),
        "tcp": mesh.add("soak-tcp", "TCP", TCPApplication(count_or_pour).port),
        "websocket": mesh.add("soak-ws", "HTTP", ports["http"]),
        "grpc": mesh.add("soak-grpc", "GRPC", ports["grpc"]),
        "echo": mesh.add("soak-echo", "TCP", ports["tcp"]),
    }
    return Applications(services, client)


def curl_up(version: str, port: int, size: int) -> int:
    command = [curl(), "-sS", version, "-X", "POST", "-T", "-", f"http://127.0.0.1:{port}/count"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        pour(process.stdin.write, size)
        process.stdin.close()
        answer = process.stdout.read()
    assert process.returncode == 0, f"curl ended with {process.returncode}"
    return int(answer)


def curl_down(version: str, port: int, size: int) -> int:
    written = ["-o", "/dev/null", "-w", "%{size_download}"]
    url = f"http://127.0.0.1:{port}/stream/{size}"
    done = subprocess.run([curl(), "-sS", version, *written, url], capture_output=True, check=True)
    return int(done.stdout)


def curl() -> str:
    path = program("curl")
    assert path is not None, "no curl: run 'python3 tests/parts/install.py'"
    return path


def pour(write: Callable[[bytes], object], size: int) -> None:
    for _ in range(size // len(CHUNK)):
        write(CHUNK)
    write(CHUNK[: size % len(CHUNK)])


def count(conn: socket.socket) -> int:
    """How many bytes come until the end."""
    buffer = bytearray(1 << 20)
    return sum(iter(lambda: conn.recv_into(buffer), 0))


def count_or_pour(conn: socket.socket) -> None:
    """The first line: ``up`` (then bytes; answered with their number) or ``down <size>``."""
    line = b""
    while not line.endswith(b"\n"):
        line += conn.recv(1)
    if line == b"up\n":
        conn.sendall(b"%d" % count(conn))
    else:
        pour(conn.sendall, int(line.split()[1]))


def tcp_up(port: int, size: int) -> int:
    with socket.create_connection(("127.0.0.1", port)) as conn:
        conn.sendall(b"up\n")
        pour(conn.sendall, size)
        conn.shutdown(socket.SHUT_WR)
        return int(b"".join(iter(lambda: conn.recv(100), b"")))


def tcp_down(port: int, size: int) -> int:
    with socket.create_connection(("127.0.0.1", port)) as conn:
        conn.sendall(b"down %d\n" % size)
        return count(conn)
