"""What happens on real Consul agents beyond the conformance suite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from meshd.discovery.consul import ConsulDiscovery
from meshd.discovery.local import HostAddress
from meshd.discovery.view import HoldRules
from meshkit.names import ServiceName
from tests.meshd.discovery.conformance import (
    REVIEWS,
    application,
    instances,
    running,
    service,
    until,
)
from tests.meshd.discovery.consul_agent import ConsulAgent, consul_agent
from tests.meshd.discovery.relay import Relay, relaying

VM1, VM2, VM3 = (HostAddress(f"vm{n}", f"10.0.0.{n}", 15443) for n in (1, 2, 3))
ROOT_TOKEN = "11111111-2222-3333-4444-555555555555"
ACL = f"""
acl {{ enabled = true, default_policy = "deny"
      tokens {{ master = "{ROOT_TOKEN}", agent = "{ROOT_TOKEN}" }} }}
"""


@pytest.fixture
def agent() -> Iterator[ConsulAgent]:
    with consul_agent() as agent:
        yield agent


class Watching:
    """What `conformance.until` needs of a world."""

    def __init__(self, watcher: ConsulDiscovery) -> None:
        self.watcher = watcher
        watcher.watch(None)


async def call(agent: ConsulAgent, method: str, path: str, body: Any = None) -> Any:
    return await trio.to_thread.run_sync(agent.call, method, path, body)


async def test_a_dead_meshd_takes_its_instances_out(agent: ConsulAgent) -> None:
    one, two = (ConsulDiscovery(agent.address, host, ttl=1.5) for host in (VM1, VM2))
    world = Watching(ConsulDiscovery(agent.address, VM3))
    async with application() as target, running(world.watcher, one):
        await one.register([service(REVIEWS, "v1", target=target)])
        await two.register([service(REVIEWS, "v2", target=target)])
        async with running(two):
            await until(world, lambda view: instances(view) == "vm1/v1 vm2/v2")
        await until(world, lambda view: instances(view) == "vm1/v1")
        checks = await call(agent, "GET", "/v1/agent/checks")
        ours = "baremesh:vm2:default:reviews:v2:9080"
        assert checks[f"{ours}:app"]["Status"] == "passing"
        assert checks[f"{ours}:meshd"]["Status"] == "critical"


async def test_the_applications_own_check_takes_it_out(agent: ConsulAgent) -> None:
    host = ConsulDiscovery(agent.address, VM1)
    world = Watching(ConsulDiscovery(agent.address, VM3))
    async with application() as target, running(world.watcher, host):
        async with application() as other:
            await host.register(
                [service(REVIEWS, "v1", target=target), service(REVIEWS, "v2", target=other)]
            )
            await until(world, lambda view: instances(view) == "vm1/v1 vm1/v2")
        view = await until(world, lambda view: instances(view) == "vm1/v1")
        assert view.held == ()


async def test_an_agent_that_comes_back_empty(agent: ConsulAgent) -> None:
    host = ConsulDiscovery(agent.address, VM1)
    world = Watching(ConsulDiscovery(agent.address, VM3))
    async with application() as target, running(world.watcher, host):
        for number in range(20):  # indexes that the new agent will not reach for long
            await call(agent, "PUT", f"/v1/kv/{number}", "x")
        await host.register([service(REVIEWS, "v1", target=target)])
        before = await until(world, lambda view: bool(instances(view)))
        await trio.to_thread.run_sync(agent.stop)
        view = await until(world, lambda view: not view.connected)
        assert view.instances == before.instances
        await trio.to_thread.run_sync(agent.start)
        view = await until(world, lambda view: view.connected and not view.held, patience=40.0)
        assert view.instances == before.instances
        await host.register([service(REVIEWS, "v2", target=target)])
        await until(world, lambda view: instances(view) == "vm1/v2", patience=20.0)


async def test_an_empty_answer_is_held_for_its_time(agent: ConsulAgent) -> None:
    world = Watching(ConsulDiscovery(agent.address, VM3, rules=HoldRules(1.0)))
    body = {"Name": "web", "ID": "web-1", "Port": 80, "Address": "10.0.0.9"}
    await call(agent, "PUT", "/v1/agent/service/register", body)
    web = ServiceName("default", "web")
    async with running(world.watcher):
        view = await until(world, lambda view: web in view.instances)
        assert view.instances[web][0].mesh_port is None
        await call(agent, "PUT", "/v1/agent/service/deregister/web-1")
        view = await until(world, lambda view: bool(view.held))
        started = time.monotonic()
        assert web in view.instances
        assert view.connected
        view = await until(world, lambda view: web not in view.instances)
        assert time.monotonic() - started > 0.8
        assert view.held == ()


async def test_maintenance_by_an_operator_is_draining(agent: ConsulAgent) -> None:
    world = Watching(ConsulDiscovery(agent.address, VM3))
    body = {"Name": "web", "ID": "web-1", "Port": 80, "Address": "10.0.0.9"}
    await call(agent, "PUT", "/v1/agent/service/register", body)
    async with running(world.watcher):
        await until(world, lambda view: bool(view.instances))
        await call(agent, "PUT", "/v1/agent/service/maintenance/web-1?enable=true")
        view = await until(world, lambda view: not view.instances)
        assert view.held == ()


async def test_the_token_is_the_files_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", ROOT_TOKEN)
    token = tmp_path / "token"
    token.write_text("99999999-0000-0000-0000-000000000000\n")
    with consul_agent(ACL, ROOT_TOKEN) as agent:
        host = ConsulDiscovery(agent.address, VM1, token_file=token)
        world = Watching(ConsulDiscovery(agent.address, VM3, token_file=token))
        async with application() as target, running(world.watcher, host):
            await host.register([service(REVIEWS, "v1", target=target)])
            view = await until(world, lambda view: "ACL" in view.error)
            assert not view.connected
            token.write_text(f"{ROOT_TOKEN}\n")
            await until(world, lambda view: bool(instances(view)) and view.connected, 20.0)


async def test_without_a_token_file_the_environments_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", ROOT_TOKEN)
    with consul_agent(ACL, ROOT_TOKEN) as agent:
        body = {"Name": "web", "ID": "web-1", "Port": 80, "Address": "10.0.0.9"}
        await call(agent, "PUT", "/v1/agent/service/register", body)
        world = Watching(ConsulDiscovery(agent.address, VM3))
        async with running(world.watcher):
            await trio.sleep(1.0)
            assert world.watcher.view().instances == {}


MANY = 300


def register_many(agent: ConsulAgent) -> None:
    for number in range(MANY):
        body = {"Name": f"s{number:03}", "Port": 1000 + number, "Address": "10.0.0.9"}
        agent.call("PUT", "/v1/agent/service/register", body)


async def see_many(world: Watching, relay: Relay, agent: ConsulAgent) -> None:
    await until(world, lambda view: len(view.instances) == MANY, patience=30.0)
    assert relay.most_connections <= 150
    for name in ("s000", f"s{MANY - 1}"):  # one that is watched, one that is polled
        body = {"Name": name, "Port": 7, "Address": "10.0.0.9"}
        await call(agent, "PUT", "/v1/agent/service/register", body)
    both = [ServiceName("default", name) for name in ("s000", f"s{MANY - 1}")]
    await until(
        world, lambda view: all(view.instances[name][0].port == 7 for name in both), patience=15.0
    )
    assert relay.most_connections <= 150
    assert world.watcher.view().error == ""


async def test_300_services_within_150_connections(agent: ConsulAgent) -> None:
    await trio.to_thread.run_sync(register_many, agent)
    async with relaying(("127.0.0.1", agent.http_port)) as relay:
        world = Watching(ConsulDiscovery(relay.address, VM3))
        async with running(world.watcher):
            await see_many(world, relay, agent)
