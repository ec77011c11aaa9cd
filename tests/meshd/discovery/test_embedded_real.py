"""EmbeddedDiscovery on a control plane over TLS, through hosts that joined for real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from ca.client import APIError, Unreachable
from meshd.discovery.base import Discovery
from meshd.discovery.embedded import EmbeddedDiscovery, Policy
from meshd.discovery.local import HostAddress
from meshkit.model.resources import LocalService
from tests.ca.conftest import Control, control  # noqa: F401
from tests.meshd.discovery.conformance import Conformance, World, running
from tests.meshd.discovery.relay import Relay, relaying

ACCOUNTS = ("default/reviews", "staging/reviews", "default/ratings")


def discovery(client: Policy, name: str, number: int) -> EmbeddedDiscovery:
    host = HostAddress(name, f"10.0.0.{number}", 15443)
    return EmbeddedDiscovery(client, host, (APIError, Unreachable), drain=0.5)


class EmbeddedWorld(World):
    target = 1

    def __init__(self, relay: Relay, watcher: Policy, one: Policy, two: Policy) -> None:
        self._relay = relay
        self.hosts = {"vm1": discovery(one, "vm1", 1), "vm2": discovery(two, "vm2", 2)}
        self.watcher: Discovery = discovery(watcher, "vm3", 3)

    async def publish(self, host: str, services: Sequence[LocalService]) -> None:
        await self.hosts[host].register(services)

    async def report(self, host: str, instance: str, healthy: bool) -> None:
        self.hosts[host].report_health(instance, healthy)

    async def cut(self) -> None:
        self._relay.cut()

    async def heal(self) -> None:
        self._relay.heal()


class TestConformance(Conformance):
    @pytest.fixture
    async def world(self, control: Control) -> AsyncIterator[World]:  # noqa: F811
        host, _, port = control.address.rpartition(":")
        async with relaying((host, int(port))) as relay:
            clients = [
                await replace(control, address=relay.address).host("vm3"),
                await control.host("vm1", *ACCOUNTS),
                await control.host("vm2", *ACCOUNTS),
            ]
            world = EmbeddedWorld(relay, *clients)
            async with running(world.watcher, *world.hosts.values()):
                yield world
