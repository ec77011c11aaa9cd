"""The local services towards discovery: registered where admitted, checked, taken out."""

from __future__ import annotations

import trio

from meshd.agent.client import Connector
from meshd.agent.context import Agent
from meshd.agent.signals import Signal
from meshd.discovery.base import Discovery
from meshd.health import watch_all
from meshkit.model.resources import LocalService

LEAVE = 2.5
"""Seconds: the mark of leaving stands for two, and takes a moment to reach every host."""


async def run_discovery(agent: Agent, connector: Connector) -> None:
    """Run the backend; pass on what changes."""
    from meshd.agent.backends import make_discovery

    discovery = agent.discovery = make_discovery(agent, connector)
    discovery.watch(None)
    agent.services_changed.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(discovery.run)
        while True:
            await discovery.changed()
            agent.compile.set()
            agent.report.set()


async def serve_services(agent: Agent) -> None:
    """Register what is admitted and watch its health, anew after each change."""
    while True:
        await agent.services_changed.wait()
        discovery = agent.discovery
        if discovery is None:
            continue
        services = registrable(agent)
        await discovery.register(services)
        await _check(agent, discovery, services, agent.services_changed)


async def _check(
    agent: Agent, discovery: Discovery, services: list[LocalService], until: Signal
) -> None:
    """Health checks until the services change.  Consul runs the applications' own."""
    async with trio.open_nursery() as nursery:
        if agent.config.discovery.kind != "consul":
            nursery.start_soon(watch_all, services, discovery.report_health)
        await until.wait()
        until.set()
        nursery.cancel_scope.cancel()


async def leave(agent: Agent) -> float:
    """Deregister everything and wait until callers have seen it; returns the seconds it took.

    At most half of `drain`: the other half is for what callers have begun.
    """
    wait = min(LEAVE, agent.config.drain / 2)
    others_look = agent.config.discovery.kind != "static" and agent.view().connected
    if not others_look or not registrable(agent):
        return 0.0
    agent.leaving = True
    agent.services_changed.set()
    agent.log.info("leaving", services=len(agent.services.services), seconds=wait)
    await trio.sleep(wait)
    return wait


def registrable(agent: Agent) -> list[LocalService]:
    """Declared and not refused: nobody should be sent to who may not serve."""
    if agent.leaving:
        return []
    refused = {name for name, _, _ in agent.admission.refused}
    return [s for s in agent.services.services if f"{s.namespace}/{s.name}" not in refused]
