"""ConsulDiscovery on real Consul agents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from meshd.discovery.base import Discovery
from meshd.discovery.consul import ConsulDiscovery
from meshd.discovery.local import HostAddress
from meshd.discovery.view import HoldRules
from meshkit.model.resources import LocalService
from tests.meshd.discovery.conformance import Conformance, World, application, running
from tests.meshd.discovery.consul_agent import ConsulAgent, consul_agent
from tests.meshd.discovery.relay import Relay, relaying

HOSTS = {"vm1": HostAddress("vm1", "10.0.0.1", 15443), "vm2": HostAddress("vm2", "10.0.0.2", 15443)}


@pytest.fixture(scope="module")
def shared_agent() -> Iterator[ConsulAgent]:
    with consul_agent() as agent:
        yield agent


class ConsulWorld(World):
    """Both hosts' meshds on one agent; the watcher reaches it through a relay."""

    def __init__(self, agent: ConsulAgent, relay: Relay, target: int) -> None:
        self.target = target
        self._relay = relay
        self.hosts = {
            name: ConsulDiscovery(agent.address, host, drain=0.5) for name, host in HOSTS.items()
        }
        self.watcher: Discovery = ConsulDiscovery(
            relay.address, HostAddress("watcher", "10.0.0.3", 15443), rules=HoldRules(60.0)
        )

    async def publish(self, host: str, services: Sequence[LocalService]) -> None:
        await self.hosts[host].register(services)

    async def report(self, host: str, instance: str, healthy: bool) -> None:
        self.hosts[host].report_health(instance, healthy)

    async def cut(self) -> None:
        self._relay.cut()

    async def heal(self) -> None:
        self._relay.heal()


@asynccontextmanager
async def consul_world(agent: ConsulAgent) -> AsyncIterator[ConsulWorld]:
    async with application() as target, relaying(("127.0.0.1", agent.http_port)) as relay:
        world = ConsulWorld(agent, relay, target)
        async with running(world.watcher, *world.hosts.values()):
            yield world


class TestConformance(Conformance):
    @pytest.fixture
    async def world(self, shared_agent: ConsulAgent) -> AsyncIterator[World]:
        async with consul_world(shared_agent) as world:
            yield world
        await trio.to_thread.run_sync(wipe, shared_agent)


def wipe(agent: ConsulAgent) -> None:
    for service_id in agent.call("GET", "/v1/agent/services"):
        agent.call("PUT", f"/v1/agent/service/deregister/{service_id}")
