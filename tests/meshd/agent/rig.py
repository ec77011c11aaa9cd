"""Real processes for tests: a mesh-ca, meshd and mesh-gateway agents, an application.

Everything lives in one temporary folder and on one loopback address a host;
`Rig.close` ends every process that was started, workers by their pid files, and the
applications.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import trio
import yaml

from ca.client import PolicyClient

DEADLINE = 60.0


_given: set[tuple[str, int]] = set()


def free_port(address: str) -> int:
    """A port that nobody has, and that was not given before: it may not be in use yet."""
    while True:
        with socket.socket() as sock:
            sock.bind((address, 0))
            found = address, int(sock.getsockname()[1])
        if found not in _given:
            _given.add(found)
            return found[1]


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Wait for something true; AssertionError with what was awaited."""
    deadline = time.monotonic() + seconds
    while not (found := _now(condition)):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return found


def _now(condition: Callable[[], Any]) -> Any:
    """None where nobody listens yet."""
    try:
        return condition()
    except (FileNotFoundError, ConnectionError):
        return None


class Application:
    """Answers every request with its name and the peer's headers as JSON."""

    def __init__(self, name: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one segment an answer: no delayed acknowledgement between two

            def do_GET(self) -> None:
                headers = {key.lower(): value for key, value in self.headers.items()}
                body = json.dumps({"name": name, "headers": headers}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        self._thread = Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


class Host:
    """One agent: its configuration, process and ports."""

    def __init__(self, rig: Rig, name: str, address: str, module: str, **config: Any) -> None:
        self.rig, self.name, self.address, self.module = rig, name, address, module
        self.folder = rig.folder / name
        (self.folder / "services.d").mkdir(parents=True)
        self.metrics, self.proxy = free_port(address), free_port(address)
        self.mesh = free_port(address)
        self.process: subprocess.Popen[bytes] | None = None
        self.config = {
            "host": name,
            "address": address,
            "meshPort": self.mesh,
            "metrics": f"{address}:{self.metrics}",
            "workers": 2,
            "runtimeDir": "run",
            "stateDir": "state",
            "accessLog": "access.log",
            "controlPlane": {"address": rig.control, "tokenFile": "token"},
            "discovery": {"kind": "embedded"},
            **config,
        }
        if module == "meshd":
            self.config |= {"proxy": f"{address}:{self.proxy}", "servicesDir": "services.d"}
        self.config_file = self.folder / f"{module}.yaml"
        self.config_file.write_text(yaml.safe_dump(self.config))

    def declare(self, name: str, port: int, target: int, **fields: Any) -> None:
        service = {
            "name": name,
            "serviceAccount": name,
            "version": "v1",
            "user": str(os.getuid()),
            "ports": [{"name": "http", "port": port, "targetPort": target, "protocol": "HTTP"}],
            **fields,
        }
        (self.folder / "services.d" / f"{name}.yaml").write_text(yaml.safe_dump(service))

    def start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", self.module, "run", "--config", str(self.config_file)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *arguments], stderr=log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(DEADLINE)

    def pids(self) -> list[int]:
        files = sorted((self.folder / "run").glob("worker.*.pid"))
        return [int(file.read_text().split()[0]) for file in files]

    def kill_workers(self) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):  # its file is left where it ended by itself
                os.kill(pid, signal.SIGKILL)

    def probe(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}:{self.metrics}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def ready(self) -> bool:
        return self.probe("/readyz")[0] == 200

    def wait_ready(self) -> None:
        until(self.ready, f"{self.name} ready: {self.probe('/readyz')[1]}\n{self.log_tail()}")

    def log_tail(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return [r for r in records if r["event"] == event]

    def admin(self, path: str, method: str = "GET") -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.folder / "run" / "admin.sock"))
            connection = HTTPConnection("admin")
            connection.sock = sock
            connection.request(method, path)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer

    def call(self, host: str, path: str = "/") -> tuple[int, str]:
        """A request through the local proxy."""
        return get(self.address, self.proxy, f"http://{host}{path}")


def get(address: str, port: int, target: str, **headers: str) -> tuple[int, str]:
    connection = HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, HTTPException) as error:
        return 0, repr(error)
    finally:
        connection.close()


class Rig:
    """A control plane and its hosts.  ``leaf`` is the life of certificates.

    Between choosing the port of ``address`` and serving there passes a second, in which
    no connection of another test may take it: these come from 127.0.0.1.
    """

    def __init__(self, folder: Path, leaf: str = "24h", address: str = "127.0.0.20") -> None:
        self.folder = folder
        self.control = f"{address}:{free_port(address)}"
        self.leaf = leaf
        self.hosts: list[Host] = []
        self.applications: list[Application] = []
        self.state = ["--state-dir", str(folder / "ca"), "--listen", self.control]
        subprocess.run([*CA, "init", *self.state, "--name", address], check=True)
        self.server: subprocess.Popen[bytes] | None = None
        self.start_server()

    def start_server(self) -> None:
        with (self.folder / "ca.log").open("ab") as log:
            command = [*CA, "serve", *self.state, "--leaf-lifetime", self.leaf]
            self.server = subprocess.Popen(command, stderr=log)
        until(lambda: self._answers(), "mesh-ca answers")

    def _answers(self) -> bool:
        host, _, port = self.control.rpartition(":")
        with socket.socket() as sock:
            return sock.connect_ex((host, int(port))) == 0

    def stop_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def host(self, name: str, address: str, module: str = "meshd", **config: Any) -> Host:
        host = Host(self, name, address, module, **config)
        self.hosts.append(host)
        return host

    def application(self, name: str) -> Application:
        """An application that ends with the rig."""
        self.applications.append(Application(name))
        return self.applications[-1]

    def token(self, host: Host, *accounts: str) -> None:
        made = self.post("/v1/tokens", {"host": host.name, "accounts": list(accounts)})
        (host.folder / "token").write_text(made["token"])

    def apply(self, text: str) -> int:
        body = {"documents": [{"source": "test.yaml", "text": text}]}
        return int(self.post("/v1/apply", body)["revision"])

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return trio.run(self._call, "post", path, body)

    def get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        return trio.run(self._call, "get", path, query)

    async def _call(self, method: str, path: str, value: Mapping[str, Any]) -> dict[str, Any]:
        operator = self.folder / "ca" / "operator"
        client = PolicyClient(
            self.control,
            roots=(operator / "roots.pem").read_text(),
            certificate=operator / "cert.pem",
            key=operator / "key.pem",
            trust_domain="cluster.local",
        )
        async with client:
            answer: dict[str, Any] = await getattr(client, method)(path, value)
            return answer

    def close(self) -> None:
        for host in self.hosts:
            if host.process is not None and host.process.poll() is None:
                host.process.kill()
                host.process.wait()
            host.kill_workers()
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        for application in self.applications:
            application.close()


CA = [sys.executable, "-c", "from ca.cli import main; main()"]
