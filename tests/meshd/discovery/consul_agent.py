"""A real Consul agent (server and client in one) on free ports, gone when the block ends."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.parts.find import consul_binary

START_TIMEOUT = 20.0


def free_ports(count: int) -> list[int]:
    """Ports that are free for TCP and UDP (serf wants both) right now."""
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            tcp = held.enter_context(socket.socket())
            tcp.bind(("127.0.0.1", 0))
            udp = held.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            ports.append(tcp.getsockname()[1])
        return ports


class ConsulAgent:
    """`start` after `stop` begins with an empty state on the same ports."""

    def __init__(self, folder: Path, hcl: str = "", token: str = "") -> None:
        self.http_port, self._server_port, self._serf_port = free_ports(3)
        self._folder, self._hcl, self._token = folder, hcl, token
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(consul_binary(), "agent", "-dev", "-node=node-1", "-log-level=warn"),
                    *("-bind=127.0.0.1", "-client=127.0.0.1", f"-http-port={self.http_port}"),
                    *("-dns-port=-1", "-grpc-port=-1", "-serf-wan-port=-1"),
                    *(f"-server-port={self._server_port}", f"-serf-lan-port={self._serf_port}"),
                    *(["-hcl", self._hcl] if self._hcl else []),
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        self._await_catalog()

    def _await_catalog(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._has_catalog():
            if time.monotonic() > deadline:
                log = (self._folder / "log").read_text()[-2000:]
                self.stop()
                raise TimeoutError(f"the Consul agent did not start:\n{log}")
            time.sleep(0.02)

    def _has_catalog(self) -> bool:
        try:
            return bool(self.call("GET", "/v1/catalog/nodes"))
        except (OSError, urllib.error.HTTPError):
            return False

    def stop(self) -> None:
        """At once, as a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request of the HTTP API; raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data, method=method)
        if self._token:
            request.add_header("X-Consul-Token", self._token)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None


@contextmanager
def consul_agent(hcl: str = "", token: str = "") -> Iterator[ConsulAgent]:
    with tempfile.TemporaryDirectory(prefix="consul-") as name:
        agent = ConsulAgent(Path(name), hcl, token)
        agent.start()
        try:
            yield agent
        finally:
            agent.stop()
