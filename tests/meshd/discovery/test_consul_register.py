"""One round of the registrar against a scripted agent."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from consul.exceptions import ConsulException

from meshd.discovery.board import Board
from meshd.discovery.consul_register import DRAINING, Registrar
from meshd.discovery.faults import Faults
from meshd.discovery.local import HostAddress
from meshkit.model.resources import LocalService
from tests.meshd.discovery.conformance import REVIEWS, service

ID = "baremesh:vm1:default:reviews:v1:9080"
ONE = service(REVIEWS, "v1", target=1)


class Agent:
    """The agent's state, and py-consul's calls on it, as far as the registrar makes them."""

    def __init__(self) -> None:
        self.services: dict[str, Any] = {}
        self.checks: dict[str, Any] = {}
        self.calls: list[tuple[str, str]] = []
        calls = SimpleNamespace(
            services=self._services,
            checks=self._checks,
            service=self,
            check=SimpleNamespace(ttl_pass=self._pass, ttl_fail=self._fail),
        )
        self.client = SimpleNamespace(agent=calls, reload_token=lambda: None)

    async def _services(self) -> Any:
        return self.services

    async def _checks(self) -> Any:
        return self.checks

    async def register(self, name: str, **given: Any) -> None:
        self.calls.append(("register", given["service_id"]))
        self.services[given["service_id"]] = {"Service": name, "Meta": given["meta"]}
        for check in [given["check"], *given["extra_checks"]]:
            self.checks[check["CheckID"]] = check

    async def deregister(self, service_id: str) -> None:
        self.calls.append(("deregister", service_id))
        del self.services[service_id]

    async def maintenance(self, service_id: str, on: bool, reason: str = "") -> None:
        self.calls.append(("maintenance", f"{service_id} {on}"))
        mark = f"_service_maintenance:{service_id}"
        self.checks.pop(mark, None)
        if on:
            self.checks[mark] = {"Notes": reason}

    async def _pass(self, check: str, notes: str) -> None:
        if check not in self.checks:
            raise ConsulException("does not have associated TTL")
        self.calls.append(("pass", check))

    async def _fail(self, check: str, notes: str) -> None:
        self.calls.append(("fail", check))

    def drain_calls(self) -> list[tuple[str, str]]:
        calls, self.calls = self.calls, []
        return calls


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.agent = Agent()
        board = Board(clock=lambda: self.now)
        self.registrar = Registrar(
            self.agent.client,  # type: ignore[arg-type]
            HostAddress("vm1", "10.0.0.1", 15443),
            Faults(board, "Consul"),
            lambda: self.now,
            drain=2.0,
        )

    async def round(self, *wish: LocalService) -> list[tuple[str, str]]:
        self.registrar.wish(wish)
        await self.registrar.mend()
        return self.agent.drain_calls()


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_registered_once_and_kept_alive(rig: Rig) -> None:
    assert await rig.round(ONE) == [("register", ID), ("pass", f"{ID}:meshd")]
    assert await rig.round(ONE) == [("pass", f"{ID}:meshd")]


async def test_a_change_is_registered_again(rig: Rig) -> None:
    await rig.round(ONE)
    assert ("register", ID) in await rig.round(replace(ONE, labels={}))


async def test_an_agent_that_lost_its_state_is_filled(rig: Rig) -> None:
    await rig.round(ONE)
    rig.agent.services.clear()
    assert ("register", ID) in await rig.round(ONE)
    rig.agent.checks.clear()
    assert ("register", ID) in await rig.round(ONE)


async def test_leaving_is_marked_first(rig: Rig) -> None:
    await rig.round(ONE)
    assert await rig.round() == [("maintenance", f"{ID} True")]
    rig.now = 1.9
    assert await rig.round() == []
    rig.now = 2.0
    assert await rig.round() == [("deregister", ID)]


async def test_back_before_it_left(rig: Rig) -> None:
    await rig.round(ONE)
    await rig.round()
    assert await rig.round(ONE) == [("maintenance", f"{ID} False"), ("pass", f"{ID}:meshd")]
    rig.now = 100.0
    assert await rig.round() == [("maintenance", f"{ID} True")]


async def test_an_operators_maintenance_is_left_alone(rig: Rig) -> None:
    await rig.round(ONE)
    await rig.agent.maintenance(ID, True, "kernel upgrade")
    rig.agent.drain_calls()
    assert await rig.round(ONE) == [("pass", f"{ID}:meshd")]
    assert rig.agent.checks[f"_service_maintenance:{ID}"]["Notes"] != DRAINING


async def test_only_our_own_are_retired(rig: Rig) -> None:
    rig.agent.services = {"web": {}, "baremesh:vm10:default:reviews:v1:9080": {}}
    assert await rig.round() == []


async def test_nothing_is_touched_before_the_first_wish(rig: Rig) -> None:
    rig.agent.services = {ID: {}}
    await rig.registrar.mend()
    assert rig.agent.calls == []


async def test_meshds_verdict_is_reported(rig: Rig) -> None:
    await rig.round(ONE)
    rig.registrar.report("default/reviews/v1", False)
    assert await rig.round(ONE) == [("fail", f"{ID}:meshd")]
    rig.registrar.report("default/reviews/v1", True)
    assert await rig.round(ONE) == [("pass", f"{ID}:meshd")]
