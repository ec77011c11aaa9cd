"""Starting the application of a protocol."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.peers.templates import binary, render
from bench.processes import LOAD_CPU, Processes, free_ports, listening, until

HERE = Path(__file__).parent
BODY = b"x" * 1024
"""Of each answer over HTTP, and the message of each gRPC call and answer."""

MESSAGE = struct.pack(">BI", 0, len(BODY)) + BODY
"""One gRPC message: not compressed, its length, itself (gRPC's PROTOCOL-HTTP2, Length-Prefixed)."""

METHOD = "/bench.Echo/Unary.grpc"
"""nghttpd takes the content type from the end of a file's name."""

STREAMS = 1024
"""More than any load has open on one connection: the application is never the limit."""

Start = Callable[[Path, Processes, int], None]


def application(protocol: str, folder: Path, processes: Processes) -> int:
    """Start it; returns its port of loopback when it listens.  Raises BenchError."""
    (port,) = free_ports(1)
    _STARTS[protocol](folder, processes, port)
    log = folder / "application.err"
    until(lambda: listening(port), "the application listens", log)
    return port


def _nginx(folder: Path, processes: Processes, port: int, listen: str = "") -> None:
    values = {"BACKEND": port, "BODY": BODY.decode(), "HTTP2": listen, "STREAMS": STREAMS}
    config = render(HERE / "nginx.conf", folder, **values)
    _start(folder, processes, [binary("nginx"), "-c", str(config), "-p", str(folder)])


def _nginx_h2(folder: Path, processes: Processes, port: int) -> None:
    _nginx(folder, processes, port, "http2")


def _nghttpd(folder: Path, processes: Processes, port: int) -> None:
    file = folder / "calls" / METHOD.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_bytes(MESSAGE)
    (folder / "mime").write_text("application/grpc grpc\n")
    command = [binary("nghttpd"), "--no-tls", "--address=127.0.0.1", f"--htdocs={folder / 'calls'}"]
    command += [f"--mime-types-file={folder / 'mime'}", "--trailer=grpc-status: 0"]
    command += ["--no-content-length", f"--max-concurrent-streams={STREAMS}", str(port)]
    _start(folder, processes, command)


def _bulk(folder: Path, processes: Processes, port: int) -> None:
    _start(folder, processes, [sys.executable, "-m", "bench.applications.bulk", str(port)])


def _start(folder: Path, processes: Processes, command: list[str]) -> None:
    processes.start(command, folder / "application.err", LOAD_CPU)


_STARTS: Mapping[str, Start] = {
    "http/1.1": _nginx,
    "h2": _nginx_h2,
    "grpc": _nghttpd,
    "tcp": _bulk,
    "handshake": _bulk,
}
