"""EmbeddedDiscovery on the real registry in memory, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd.discovery.base import Discovery, Instance
from meshd.discovery.embedded import (
    DRAIN,
    LEASE,
    EmbeddedDiscovery,
    MalformedMessage,
    from_wire,
    read_services,
    to_wire,
)
from meshd.discovery.local import HostAddress
from meshd.discovery.view import HoldRules
from meshkit.model.resources import LocalService
from tests.meshd.discovery.conformance import (
    REVIEWS,
    World,
    instances,
    running,
    service,
    until,
)
from tests.meshd.discovery.fake_policy import Away, Client, Server


def discovery(client: Client, name: str, number: int) -> EmbeddedDiscovery:
    return EmbeddedDiscovery(
        client,
        HostAddress(name, f"10.0.0.{number}", 15443),
        (Away,),
        rules=HoldRules(60.0),
        clock=trio.current_time,
    )


class EmbeddedWorld(World):
    target = 1

    def __init__(self) -> None:
        self.server = Server()
        self.clients = {name: Client(self.server, name) for name in ("vm1", "vm2", "vm3")}
        found = {n: discovery(c, n, i) for i, (n, c) in enumerate(self.clients.items(), 1)}
        self.watcher: Discovery = found.pop("vm3")
        self.hosts = found

    async def publish(self, host: str, services: Sequence[LocalService]) -> None:
        await self.hosts[host].register(services)

    async def report(self, host: str, instance: str, healthy: bool) -> None:
        self.hosts[host].report_health(instance, healthy)

    async def cut(self) -> None:
        self.clients["vm3"].cut()

    async def heal(self) -> None:
        self.clients["vm3"].heal()


@pytest.fixture
async def world() -> AsyncIterator[EmbeddedWorld]:
    world = EmbeddedWorld()
    async with running(world.watcher, *world.hosts.values()):
        yield world


ONE = service(REVIEWS, "v1", target=1)


async def test_the_lease_is_renewed_at_a_third(
    world: EmbeddedWorld, autojump_clock: MockClock
) -> None:
    await world.publish("vm1", [ONE])
    await trio.sleep(LEASE * 10 + 1)
    assert 31 <= world.clients["vm1"].calls <= 32


async def test_a_host_that_died_is_held_and_then_gone(
    world: EmbeddedWorld, autojump_clock: MockClock
) -> None:
    world.watcher.watch(None)
    await world.publish("vm1", [ONE])
    await until(world, lambda view: bool(instances(view)))
    world.clients["vm1"].cut()
    start = trio.current_time()
    await trio.sleep(LEASE)
    world.server.expire()
    view = await until(world, lambda view: bool(view.held))
    assert view.held[0].reason == "the answer is empty; 1 known before"
    await until(world, lambda view: not view.instances, patience=100.0)
    assert trio.current_time() - start == pytest.approx(LEASE + 60.0, abs=1.0)


async def test_a_server_that_lost_everything_is_filled_again(
    world: EmbeddedWorld, autojump_clock: MockClock
) -> None:
    world.watcher.watch(None)
    await world.publish("vm1", [ONE])
    await until(world, lambda view: bool(instances(view)))
    await world.cut()
    world.server.registry._leases.clear()
    await world.heal()
    view = await until(world, lambda view: bool(view.held) and view.connected)
    assert instances(view) == "vm1/v1"
    await trio.sleep(LEASE)
    view = world.watcher.view()
    assert (instances(view), view.held) == ("vm1/v1", ())


async def test_leaving_is_marked_until_the_server_has_heard(
    world: EmbeddedWorld, autojump_clock: MockClock
) -> None:
    world.watcher.watch(None)
    await world.publish("vm1", [ONE])
    await until(world, lambda view: bool(instances(view)))
    world.clients["vm1"].cut()
    await world.publish("vm1", [])
    await trio.sleep(LEASE * 0.9)
    world.clients["vm1"].heal()
    view = await until(world, lambda view: not view.instances, patience=LEASE)
    assert view.held == ()
    await trio.sleep(DRAIN + LEASE)
    assert world.server.registry.services() == {}


async def test_nothing_is_put_before_the_first_wish(
    world: EmbeddedWorld, autojump_clock: MockClock
) -> None:
    await trio.sleep(LEASE * 3)
    assert world.clients["vm1"].calls == 0


def test_the_wire_form_goes_both_ways() -> None:
    one = Instance(REVIEWS, "v1", "vm1", "10.0.0.1", 9080, "HTTP", 15443, "http", {"a": "b"}, 3)
    assert from_wire(REVIEWS, {**to_wire(one, healthy=True), "host": "vm1"}) == one


@pytest.mark.parametrize(
    "message",
    [{}, {"services": []}, {"services": {"a/b/c": []}}, {"services": {"a/b": [{"port": 1}]}}],
)
def test_malformed_messages(message: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        read_services(message)
