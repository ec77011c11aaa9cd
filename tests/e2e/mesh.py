"""A whole mesh of real processes on a block of loopback addresses of its own.

``mesh-ca``, one ``meshd`` agent with its workers for each host, a gateway, and
applications in threads of the test.  `tests.meshd.agent.rig` starts the single
processes; this adds the block, Consul, meshctl as a program, and the end that
leaves nothing: `Mesh.close` fails the test when a process of the mesh is left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from meshctl.demo.places import claim_block
from tests.e2e.application import Application
from tests.e2e.client import Answer, fetch
from tests.e2e.processes import kill, mentioning
from tests.meshd.agent.rig import Host, Rig, until
from tests.meshd.discovery.consul_agent import ConsulAgent

REVIEWS = 9080
"""The mesh's port of reviews."""
GENEROUS = 60.0
"""Seconds that a condition may take on a busy machine."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


class Mesh:
    """Use `mesh`, which closes it.  Hosts are added with `join` and started with `start`."""

    def __init__(self, folder: Path, *, consul: bool = False, leaf: str = "24h") -> None:
        self.folder = folder
        self._block = claim_block(lambda _: [])
        # Between choosing a port and serving there passes a second: nobody else binds here.
        self.rig = Rig(folder, leaf, self.address(10))
        self.consul: ConsulAgent | None = None
        self.hosts: dict[str, Host] = {}
        self.applications: dict[str, Application] = {}
        if consul:
            (folder / "consul").mkdir()
            self.consul = ConsulAgent(folder / "consul")
            self.consul.start()

    def address(self, last: int) -> str:
        return self._block.address(last)

    # Hosts and applications

    def join(self, name: str, last: int, *accounts: str, **config: Any) -> Host:
        """A host that may use ``accounts``; ``config`` overrides meshd.yaml."""
        if self.consul is not None:
            found = {"kind": "consul", "consul": {"address": self.consul.address}}
            config = {"discovery": found, **config}
        host = self.rig.host(name, self.address(last), **config)
        self.hosts[name] = host
        self.rig.token(host, *accounts)
        return host

    def serve(self, host: Host, service: str, version: str, port: int, **fields: Any) -> None:
        """An application called ``<service>-<version>`` and its declaration on ``host``."""
        name = f"{service}-{version}"
        application = self.applications.get(name) or Application(name)
        self.applications[name] = application
        labels = {"app": service, "version": version}
        fields = {"version": version, "labels": labels, **fields}
        host.declare(service, port, application.port, **fields)

    def start(self) -> None:
        """Start every host that does not run; back when all are ready."""
        idle = [h for h in self.hosts.values() if h.process is None or h.process.poll() is not None]
        for host in idle:
            host.start()
        for host in idle:
            wait_ready(host)

    def close(self) -> None:
        left = self._end()
        assert not left, f"processes that Rig.close did not end: {left}"

    def _end(self) -> list[str]:
        try:
            self.rig.close()
        finally:
            if self.consul is not None:
                self.consul.stop()
            for application in self.applications.values():
                application.close()
            self._block.claim.close()
        left = mentioning(str(self.folder))
        for process in left:
            kill(process)
        return [process.command for process in left]

    # Requests

    def call(
        self,
        authority: str = f"reviews:{REVIEWS}",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        *,
        caller: str = "a",
        method: str = "GET",
        body: bytes | None = None,
    ) -> Answer:
        """One request through the local proxy of host ``caller``, as its own service."""
        host = self.hosts[caller]
        target = f"http://{authority}{path}"
        return fetch(host.address, host.proxy, target, headers, method=method, body=body)

    def served_by(self, count: int = 20, **arguments: Any) -> dict[str, int]:
        """Which applications answered ``count`` calls; failures count as their text."""
        found: dict[str, int] = {}
        for _ in range(count):
            answer = self.call(**arguments)
            name = answer.name or str(answer)
            found[name] = found.get(name, 0) + 1
        return found

    # The operator

    def ctl(self, *arguments: str, text: str | None = None) -> Result:
        """`meshctl`, as a program of its own."""
        operator = str(self.folder / "ca" / "operator")
        done = subprocess.run(
            [sys.executable, "-m", "meshctl", "--context", operator, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "NO_COLOR": "1"},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def asked(self, *arguments: str) -> dict[str, Any]:
        """The JSON document of a meshctl command that must succeed."""
        done = self.ctl(*arguments, "-o", "json")
        assert done.status == 0, done
        assert done.json["version"] == 1, "every document carries its version"
        return done.json

    def apply(self, text: str) -> int:
        """`meshctl apply --wait`: the revision, live on every connected host."""
        done = self.ctl("apply", "-f", "-", "--wait", "-o", "json", text=text)
        assert done.status == 0, done
        return int(done.json["revision"])

    def clear(self) -> None:
        """Delete every resource, and wait until no host has any."""
        items = self.rig.get("/v1/resources", {})["resources"]
        keys = [
            f"{r['kind']}/{r['metadata'].get('namespace', 'default')}/{r['metadata']['name']}"
            for r in items
        ]
        if keys:
            revision = int(self.rig.post("/v1/delete", {"keys": keys})["revision"])
            self.wait_for_revision(revision)

    def wait_for_revision(self, revision: int) -> None:
        def behind() -> dict[str, int]:
            seen = {name: self.revision(name) for name in self.hosts}
            return {name: at for name, at in seen.items() if at < revision}

        until(lambda: not behind(), f"revision {revision} everywhere", GENEROUS)

    def revision(self, host: str) -> int:
        """The policy revision that the workers of ``host`` run, as the host says."""
        return int(self.hosts[host].admin("/status")["revision"])

    # What the daemons say

    def metric(self, host: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        status, text = self.hosts[host].probe("/metrics")
        assert status == 200, text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def log(self, host: str) -> str:
        """All that the agent and workers of a host have written."""
        return (self.hosts[host].folder / "log").read_text()


def wait_ready(host: Host) -> None:
    """AssertionError with what is missing and the end of the log, as they are by then."""
    try:
        until(host.ready, f"{host.name} ready", GENEROUS)
    except AssertionError as error:
        missing = host.probe("/readyz")[1]
        raise AssertionError(f"{error}: {missing}\n{host.log_tail()}") from None


@contextmanager
def mesh(folder: Path, *, consul: bool = False, leaf: str = "24h") -> Iterator[Mesh]:
    """An empty mesh: an authority, and Consul if wished."""
    whole = Mesh(folder, consul=consul, leaf=leaf)
    try:
        yield whole
    except BaseException:
        whole._end()
        raise
    whole.close()


def reviews_mesh(whole: Mesh, **config: Any) -> None:
    """Host a calls as shop; b serves reviews v1, c reviews v2.  Started and answering."""
    a = whole.join("a", 1, "default/shop", **config)
    whole.serve(a, "shop", "v1", 9000)
    for name, last, version in (("b", 2, "v1"), ("c", 3, "v2")):
        host = whole.join(name, last, "default/reviews", **config)
        whole.serve(host, "reviews", version, REVIEWS)
    whole.start()
    both = {"reviews-v1", "reviews-v2"}
    until(lambda: whole.served_by(8).keys() == both, "both versions answer", GENEROUS)
