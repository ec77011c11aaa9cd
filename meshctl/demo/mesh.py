"""Bring the demo's mesh up, change its rules, and look at it: as an operator would."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio
from prometheus_client.parser import text_string_to_metric_families

from meshctl import context, view
from meshctl.api import AsyncApi
from meshctl.demo import files
from meshctl.demo.caller import Caller
from meshctl.demo.layout import EXAMPLES, GATEWAY, HOSTS, Layout, accounts
from meshctl.demo.processes import Processes, run
from meshctl.demo.screen import Say
from meshctl.demo.traffic import Sample, Tallies, tally
from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.rollout import rollout

READY_SECONDS = 60.0
"""How long each part may take to be ready; a second or two is usual."""
POLL = 0.1


def tool(name: str) -> str:
    """One of our own daemons, of the same installation as this process."""
    return str(Path(sys.executable).with_name(name))


def consul_binary() -> str:
    """A ``consul`` on PATH wins over the one that the tests install.  Raises Failure."""
    unpacked = Path(__file__).parents[2] / ".parts" / "consul" / "usr" / "bin" / "consul"
    found = shutil.which("consul") or shutil.which(str(unpacked))
    if found:
        return found
    raise Failure(
        Exit.CHECK_FAILED,
        "no consul on PATH nor in .parts/",
        "install it, or run `make parts`; without --consul the demo needs none",
    )


@dataclass
class Mesh:
    """A running demo.  Every wait ends in `READY_SECONDS` with a Failure that says for what."""

    layout: Layout
    processes: Processes
    caller: Caller
    _api: AsyncApi | None = field(default=None, init=False)

    @property
    def api(self) -> AsyncApi:
        if self._api is None:
            self._api = AsyncApi(context.load(self.layout.operator))
        return self._api

    async def until(self, what: str, ready: Callable[[], Awaitable[bool]]) -> None:
        """Ask ``ready`` until it says yes; a child that died ends the wait at once."""
        with trio.move_on_after(READY_SECONDS):
            while True:
                self.processes.check()
                if await ready():
                    return
                await trio.sleep(POLL)
        raise Failure(
            Exit.CHECK_FAILED,
            f"after {READY_SECONDS:g} s still waiting for {what}",
            f"look into the daemons' logs, {self.layout.folder}/*/log",
        )

    # Bringing it up

    async def start_consul(self) -> None:
        folder = self.layout.folder / "consul"
        folder.mkdir()
        address = self.layout.address("consul")
        command = [consul_binary(), "agent", "-dev", f"-bind={address}", f"-client={address}"]
        command += ["-log-level=warn", "-dns-port=-1", "-grpc-port=-1"]
        self.processes.start("consul", command, folder / "log")

        async def leader() -> bool:
            return len(await self.caller.text(f"http://{address}:8500/v1/status/leader")) > 4

        await self.until("a Consul leader", leader)

    async def start_control(self) -> None:
        """The authority and policy server: made, then served."""
        folder = self.layout.folder / "ca"
        config = str(folder / "mesh-ca.yaml")
        make = [tool("mesh-ca"), "init", "--config", config]
        await run(make, folder / "init.log")
        self.processes.start(
            "mesh-ca", [tool("mesh-ca"), "serve", "--config", config], folder / "log"
        )
        await self.until("the policy server", self._served)

    async def _served(self) -> bool:
        try:
            await self.api.get("/v1/whoami")
        except Failure:
            return False
        return True

    async def start_members(self) -> None:
        """A token for each host, then its meshd, as on real hosts."""
        for who in self.layout.members():
            answer = await self.api.post(
                "/v1/tokens", {"host": who, "accounts": accounts(who), "ttl": 600}
            )
            files.write_token(self.layout, who, answer["token"])
        for who in self.layout.members():
            folder = self.layout.folder / who
            daemon, config = ("meshd", "meshd.yaml")
            if who == GATEWAY:
                daemon, config = ("mesh-gateway", "gateway.yaml")
            command = [tool(daemon), "run", "--config", str(folder / config), "--own-workers"]
            self.processes.start(f"{daemon} of {who}", command, folder / "log")

    def start_programs(self) -> None:
        for host, programs in HOSTS.items():
            for program in programs:
                arguments = files.program_arguments(self.layout, host, program)
                self.processes.start(
                    f"{program.label} on {host}",
                    [sys.executable, "-m", "bookinfo", *arguments],
                    self.layout.folder / host / f"{program.label}.log",
                    env={"PYTHONPATH": str(EXAMPLES), "PYTHONDONTWRITEBYTECODE": "1"},
                )

    async def joined(self) -> None:
        """Every member has its certificates and reports."""

        async def all_there() -> bool:
            status = view.parse(await self.api.get("/v1/status"))
            there = {host.name for host in status.hosts if host.connected and host.workers}
            return there >= set(self.layout.members())

        await self.until("all hosts to join and start their workers", all_there)

    async def page_ready(self) -> None:
        """The page has all its parts, from the browser's side of the gateway."""

        async def whole() -> bool:
            html = await self.caller.text("/productpage")
            return bool(html) and "currently unavailable" not in html

        await self.until(f"a whole page at {self.layout.page}/productpage", whole)

    async def found(self) -> None:
        """Hosts a and c, which call others, know every program by its version.

        A whole page does not say so: any version of reviews makes it whole.
        """
        wanted = {program.label for programs in HOSTS.values() for program in programs}

        async def all_known() -> bool:
            known = [await self._labels_known("a"), await self._labels_known("c")]
            return all(labels >= wanted for labels in known)

        await self.until("hosts a and c to discover all programs", all_known)

    async def _labels_known(self, host: str) -> set[str]:
        answer = await self.api.get(f"/v1/hosts/{host}/config", {"what": "endpoints"})
        labels = [row["labels"] for row in answer.get("endpoints", ())]
        return {f"{one.get('app')}-{one.get('version')}" for one in labels}

    # Changing and looking

    async def apply(self, say: Say, *names: str) -> int:
        """Apply examples as one revision and wait until every host runs it."""
        documents = [
            {"source": source, "text": text}
            for source, text in (files.example(name, self.layout) for name in names)
        ]
        answer = await self.api.post("/v1/apply", {"documents": documents, "dryRun": False})
        revision = int(answer["revision"])
        say(f"revision {revision} applied, waiting for the hosts")

        async def live() -> bool:
            status = view.parse(await self.api.get("/v1/status"))
            now = rollout(status.hosts, revision)
            if now.refused:
                host, reason = now.refused[0]
                raise Failure(Exit.NOT_LIVE, f"host {host} refused revision {revision}", reason)
            return len(now.live) == len(self.layout.members())

        await self.until(f"every host to run revision {revision}", live)
        return revision

    async def fail_ratings(self, percent: int) -> None:
        """The switch of the ratings program, on its own port: no mesh involved."""
        address = self.layout.address("c")
        status = await self.caller.post(f"http://{address}:19083/fail?percent={percent}")
        if status != 200:
            raise Failure(Exit.CHECK_FAILED, f"ratings answered {status} to /fail", "see its log")

    @property
    def plaintext_url(self) -> str:
        """reviews v1 on host b as a caller outside the mesh reaches it."""
        return f"http://{self.layout.address('b')}:9082/reviews/1"

    async def worker_of(self, host: str, not_pid: int = 0) -> int:
        """Pid of a host's worker; other than ``not_pid``, waited for up to 20 s, else 0."""
        with trio.move_on_after(20):
            while True:
                status = view.parse(await self.api.get("/v1/status"))
                for known in status.hosts:
                    for _, pid, _ in known.workers if known.name == host else ():
                        if pid not in (0, not_pid):
                            return pid
                await trio.sleep(POLL)
        return 0

    async def tallies(self) -> Tallies:
        """Counters of all hosts, now; a host that does not answer is left out."""
        edges: Tallies = {}
        for host in HOSTS:
            text = await self.caller.text(self.layout.metrics(host))
            edges.update(tally(host, _samples(text)))
        return edges


def _samples(text: str) -> Iterable[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
