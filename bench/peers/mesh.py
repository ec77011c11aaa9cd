"""Baremesh as two hops: mesh-ca and two agents with a worker each, as hosts run them.

Host *a* has the caller, a service of the current user, that goes through the local
HTTP proxy: the `Host` of each request picks the service, as with every other peer.
Host *b* has `svc0` in front of the application.  The other services are
ServiceEntries with fixed endpoints; each has a VirtualService with timeout and
retries.  The agents join, sign, discover and check health while they are measured.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import trio

from bench.answers import check_answer
from bench.peers.running import HOST, Running
from bench.peers.templates import SERVICES
from bench.processes import LOAD_CPU, PROXY_CPU, BenchError, Processes, free_ports, listening, until
from ca.client import APIError, PolicyClient
from meshkit import __version__
from meshkit.model.dump import to_yaml
from meshkit.names import ServiceName
from meshkit.snapshot.sni import mesh_sni

DOMAIN = "svc.cluster.local"
PORT = 9080
"""The port of every service but `svc0`, which has a free one of this machine."""

DECLARED: Mapping[str, str] = {
    "http/1.1": "HTTP",
    "h2": "HTTP2",
    "grpc": "GRPC",
    "tcp": "TCP",
    "handshake": "TCP",
}
"""What the service's port is declared to be, by what is measured."""

ALPN: Mapping[str, str] = {
    "HTTP": "http/1.1",
    "HTTP2": "h2",
    "GRPC": "h2",
    "TCP": "baremesh-tcp/1",
}
"""What is spoken between the hosts."""

APPLY_BYTES = 512 << 10
"""Resources go to the policy server in texts of about this size; it takes 1 MiB at once."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is in the route table: `rules` for each of `services`, endpoints for each."""

    services: int = SERVICES
    rules: int = 1
    endpoints: int = 1


def virtual_service(name: str, rules: int) -> dict[str, Any]:
    """The last rule takes everything; those before it match a prefix and a header."""
    common: dict[str, Any] = {
        "route": [{"destination": {"host": name}}],
        "timeout": "15s",
        "retries": {"attempts": 2, "retryOn": "connect-failure,refused-stream"},
    }
    matched = [
        {
            "name": f"rule-{index}",
            "match": [
                {
                    "uri": {"prefix": f"/api/v{index}"},
                    "headers": {"end-user": {"exact": f"user-{index}"}},
                }
            ],
            **common,
        }
        for index in range(rules - 1)
    ]
    rest = {"name": "rest", **common}
    return _resource("VirtualService", name, {"hosts": [name], "http": [*matched, rest]})


def service_entry(index: int, endpoints: int) -> dict[str, Any]:
    """Service `index` at addresses of its own; nobody calls it."""
    name = f"svc{index}"
    addresses = [f"10.{index // 250}.{index % 250}.{n + 1}" for n in range(endpoints)]
    return _resource(
        "ServiceEntry",
        name,
        {
            "hosts": [f"{name}.default.{DOMAIN}"],
            "location": "MESH_EXTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": PORT, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": address} for address in addresses],
        },
    )


def _resource(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def resources(size: Size, declared: str = "HTTP") -> Iterator[dict[str, Any]]:
    """Everything that is applied; `svc0` has that protocol, and no HTTP routes where it is TCP."""
    if declared != "TCP":
        yield virtual_service(HOST, size.rules)
    for index in range(1, size.services):
        yield service_entry(index, size.endpoints)
        yield virtual_service(f"svc{index}", size.rules)


def pieces(documents: Iterator[dict[str, Any]], limit: int = APPLY_BYTES) -> Iterator[str]:
    """YAML texts of several documents, each text at most about `limit` bytes."""
    text, size = list[str](), 0
    for document in documents:
        text.append(to_yaml(document))
        size += len(text[-1])
        if size >= limit:
            yield "---\n".join(text)
            text, size = [], 0
    if text:
        yield "---\n".join(text)


class Control:
    """A mesh-ca of its own, and calls to it as its operator."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self._operator = folder / "ca" / "operator"
        log = folder / "ca.log"
        program = [sys.executable, "-c", "from ca.cli import main; main()"]
        state = ["--state-dir", str(folder / "ca"), "--listen", self.address]
        init = [*program, "init", *state, "--name", "127.0.0.1"]
        done = subprocess.run(init, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"mesh-ca init failed: {done.stderr.strip()}")
        processes.start([*program, "serve", *state], log, LOAD_CPU)
        until(lambda: listening(self.port), "mesh-ca listens", log)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return trio.run(self._post, path, body)

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        client = PolicyClient(
            self.address,
            roots=(self._operator / "roots.pem").read_text(),
            certificate=self._operator / "cert.pem",
            key=self._operator / "key.pem",
            trust_domain="cluster.local",
        )
        async with client:
            answer: dict[str, Any] = await client.post(path, body)
            return answer

    def apply(self, text: str) -> int:
        """Returns the revision.  Raises BenchError with every problem of the text."""
        documents = [{"source": "bench.yaml", "text": text}]
        try:
            return int(self.post("/v1/apply", {"documents": documents})["revision"])
        except APIError as error:
            raise BenchError(f"{error.message}: {json.dumps(error.problems)}") from error


class Host:
    """One `meshd run` with one worker, in a folder of its own."""

    def __init__(
        self, folder: Path, name: str, service: Mapping[str, Any], worker_python: str | None
    ) -> None:
        self.name = name
        self.worker_python = worker_python
        self.folder = folder / name
        self.mesh, self.proxy, self.metrics = free_ports(3)
        self.access_log = self.folder / "access.log"
        self.log = self.folder / "meshd.log"
        (self.folder / "services.d").mkdir(parents=True)
        (self.folder / "services.d" / "service.yaml").write_text(to_yaml(dict(service)))

    def start(self, control: Control, account: str, processes: Processes) -> int:
        """Returns the agent's pid."""
        body = {"host": self.name, "accounts": [account]}
        token = self.folder / "token"
        token.write_text(control.post("/v1/tokens", body)["token"])
        config = {
            "host": self.name,
            "address": "127.0.0.1",
            "meshPort": self.mesh,
            "proxy": f"127.0.0.1:{self.proxy}",
            "metrics": f"127.0.0.1:{self.metrics}",
            "workers": 1,
            "runtimeDir": str(self.folder / "run"),
            "stateDir": str(self.folder / "state"),
            "servicesDir": str(self.folder / "services.d"),
            "controlPlane": {"address": control.address, "tokenFile": str(token)},
            "discovery": {"kind": "embedded"},
            "accessLog": str(self.access_log),
            "drain": "1s",
        }
        file = self.folder / "meshd.yaml"
        file.write_text(to_yaml(config))
        command = [*self._program(), "run", "--config", str(file), "--own-workers"]
        return processes.start(command, self.log, PROXY_CPU)

    def _program(self) -> list[str]:
        """An agent starts its workers with the interpreter that it believes to be its own.

        Whatever stands in for that may be slow to start: the agent waits for it.
        """
        if self.worker_python is None:
            return [sys.executable, "-m", "meshd"]
        code = (
            "import runpy, sys; sys.executable = {!r}; runpy.run_module('meshd', None, '__main__')"
        )
        return [sys.executable, "-c", code.format(self.worker_python)]

    def ready(self) -> bool:
        return status(f"http://127.0.0.1:{self.metrics}/readyz") == 200

    def runs(self, revision: int) -> bool:
        """Whether the agent has given its workers what was applied last."""
        connection = HTTPConnection("admin")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.folder / "run" / "admin.sock"))
            connection.sock = sock
            connection.request("GET", "/status")
            shown = json.load(connection.getresponse())
        return int(shown["revision"]) >= revision


def status(url: str) -> int:
    """The status of a GET; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def answers(peer: Running, protocol: str) -> bool:
    """Whether a request of that protocol gets the application's answer."""
    try:
        check_answer(peer, protocol)
    except (OSError, EOFError, BenchError):
        return False
    return True


def start(
    folder: Path,
    backend: int,
    processes: Processes,
    protocol: str = "http/1.1",
    size: Size | None = None,
    worker_python: str | None = None,
) -> Running:
    """The whole mesh; returns when a request through it is answered.

    `worker_python`: a program that is started in place of the workers' interpreter.
    """
    port, local = free_ports(2)
    declared = DECLARED[protocol]
    control = Control(folder, processes)
    upstream = {"listen": f"127.0.0.1:{local}", "host": HOST, "port": port}
    caller = {
        "name": "client",
        "serviceAccount": "client",
        "user": str(os.getuid()),
        "upstreams": [upstream],
    }
    serves = {
        "name": HOST,
        "serviceAccount": HOST,
        "version": "v1",
        "user": str(os.getuid()),
        "ports": [{"name": "app", "port": port, "targetPort": backend, "protocol": declared}],
    }
    a = Host(folder, "a", caller, worker_python)
    b = Host(folder, "b", serves, worker_python)
    pids = (
        a.start(control, "default/client", processes),
        b.start(control, f"default/{HOST}", processes),
    )
    for host in (a, b):
        until(host.ready, f"host {host.name} is ready", host.log)
    revision = max(control.apply(text) for text in pieces(resources(size or Size(), declared)))
    for host in (a, b):
        until(partial(host.runs, revision), f"host {host.name} runs it", host.log)
    peer = Running(
        "baremesh",
        f"baremesh {__version__}",
        local if declared == "TCP" else a.proxy,
        pids,
        b.mesh,
        (a.access_log, b.access_log),
        agents=pids,
        sni=mesh_sni(ServiceName("default", HOST), port, "any", DOMAIN),
        alpn=(ALPN[declared],),
        leaf="",
    )
    until(lambda: answers(peer, protocol), f"{HOST} answers", a.log)
    return peer
