"""What every discovery backend must do: `Conformance`, run by one test module each.

A backend comes as a `World`: some place where hosts publish their services and
one watching host, with means to cut the watching host off from the backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import trio

from meshd.discovery.base import Discovery, Instance, View
from meshkit.model.resources import Health, LocalService, ServicePort
from meshkit.names import ServiceName

REVIEWS = ServiceName("default", "reviews")
STAGING = ServiceName("staging", "reviews")
RATINGS = ServiceName("default", "ratings")
PATIENCE = 30.0  # a wait ends as soon as it can; a busy machine needs a multiple of a quiet one
QUIET = 0.6
"""Seconds in which nothing may happen, when that is what a test shows."""


def service(
    name: ServiceName, instance: str, *, target: int, ports: Sequence[int] = (9080,)
) -> LocalService:
    """A service whose application answers TCP on 127.0.0.1:``target``."""
    return LocalService(
        name=name.name,
        namespace=name.namespace,
        service_account=name.name,
        instance=instance,
        labels={"app": name.name, "version": instance, "team.example/owner": "a.b"},
        ports=tuple(ServicePort(f"http-{n}", n, target, "HTTP") for n in ports),
        health=Health(http=None, port=target, interval=0.2, timeout=1.0),
    )


class World(ABC):
    """One backend with two publishing hosts and a watching one."""

    target: int
    """Where something listens, for services that are to be healthy."""
    watcher: Discovery

    @abstractmethod
    async def publish(self, host: str, services: Sequence[LocalService]) -> None:
        """Host ``vm1`` or ``vm2`` (addresses 10.0.0.1, 10.0.0.2; mesh port 15443) has these."""

    @abstractmethod
    async def report(self, host: str, instance: str, healthy: bool) -> None:
        """The host's meshd says how an instance of its is."""

    @abstractmethod
    async def cut(self) -> None:
        """The backend becomes unreachable for the watching host."""

    @abstractmethod
    async def heal(self) -> None:
        """And is back with what it had."""


class Watched(Protocol):
    """What has a discovery to look at: a `World`, and smaller things."""

    @property
    def watcher(self) -> Discovery: ...


async def until(world: Watched, good: Callable[[View], bool], patience: float = PATIENCE) -> View:
    """The first view that is good, waiting by `changed` alone."""
    with trio.move_on_after(patience):
        while not good(world.watcher.view()):
            await world.watcher.changed()
    view = world.watcher.view()
    assert good(view), view
    return view


def instances(view: View, name: ServiceName = REVIEWS) -> str:
    return " ".join(sorted(f"{i.host}/{i.instance}" for i in view.instances.get(name, ())))


class Conformance:
    """Mixed into a test class that gives a ``world`` fixture."""

    async def test_a_published_service_is_seen_whole(self, world: World) -> None:
        world.watcher.watch(None)
        await world.publish("vm1", [service(REVIEWS, "v1", target=world.target)])
        view = await until(world, lambda view: bool(instances(view)))
        assert view.instances[REVIEWS] == (
            Instance(
                service=REVIEWS,
                instance="v1",
                host="vm1",
                address="10.0.0.1",
                port=9080,
                protocol="HTTP",
                mesh_port=15443,
                port_name="http-9080",
                labels={"app": "reviews", "version": "v1", "team.example/owner": "a.b"},
                weight=1,
            ),
        )
        assert view.connected
        assert view.error == ""
        assert view.held == ()

    async def test_hosts_instances_and_ports_add_up(self, world: World) -> None:
        world.watcher.watch([REVIEWS])
        one = service(REVIEWS, "v1", target=world.target, ports=(9080, 9081))
        await world.publish("vm1", [one, service(REVIEWS, "v2", target=world.target)])
        await world.publish("vm2", [service(REVIEWS, "v1", target=world.target)])
        await until(world, lambda view: instances(view) == "vm1/v1 vm1/v1 vm1/v2 vm2/v1")

    async def test_protocols_arrive_as_declared(self, world: World) -> None:
        world.watcher.watch([REVIEWS])
        declared = {9080: "GRPC", 9081: "MYSQL", 9082: "AUTO"}
        one = service(REVIEWS, "v1", target=world.target, ports=tuple(declared))
        ports = tuple(replace(port, protocol=declared[port.port]) for port in one.ports)
        await world.publish("vm1", [replace(one, ports=ports)])
        view = await until(world, lambda view: len(view.instances.get(REVIEWS, ())) == 3)
        assert {i.port: i.protocol for i in view.instances[REVIEWS]} == declared

    async def test_namespaces_are_told_apart(self, world: World) -> None:
        world.watcher.watch([REVIEWS, STAGING])
        await world.publish(
            "vm1",
            [service(name, "v1", target=world.target) for name in (REVIEWS, STAGING)],
        )
        view = await until(world, lambda view: len(view.instances) == 2)
        assert instances(view) == instances(view, STAGING) == "vm1/v1"

    async def test_only_what_is_watched_is_shown(self, world: World) -> None:
        world.watcher.watch([REVIEWS])
        names = (REVIEWS, STAGING, RATINGS)
        await world.publish("vm1", [service(name, "v1", target=world.target) for name in names])
        view = await until(world, lambda view: bool(instances(view)))
        assert set(view.instances) == {REVIEWS}
        world.watcher.watch([RATINGS])
        await until(world, lambda view: set(view.instances) == {RATINGS})
        world.watcher.watch(None)
        await until(world, lambda view: set(view.instances) == set(names))
        world.watcher.watch([])
        await until(world, lambda view: not view.instances)

    async def test_what_is_published_again_changes_nothing(self, world: World) -> None:
        world.watcher.watch([REVIEWS])
        same = [service(REVIEWS, "v1", target=world.target)]
        await world.publish("vm1", same)
        before = await until(world, lambda view: bool(instances(view)) and view.connected)
        await world.publish("vm1", same)
        await trio.sleep(QUIET)
        after = world.watcher.view()
        assert after == before
        assert after.instances[REVIEWS] is before.instances[REVIEWS]

    async def test_what_is_no_longer_listed_leaves_and_is_not_held(self, world: World) -> None:
        world.watcher.watch([REVIEWS])
        await world.publish("vm1", [service(REVIEWS, "v1", target=world.target)])
        await until(world, lambda view: bool(instances(view)))
        await world.publish("vm1", [])
        view = await until(world, lambda view: not instances(view), patience=20.0)
        assert view.held == ()

    async def test_health_takes_out_and_brings_back(self, world: World) -> None:
        world.watcher.watch([REVIEWS])
        await world.publish("vm1", [service(REVIEWS, "v1", target=world.target)])
        await world.publish("vm2", [service(REVIEWS, "v2", target=world.target)])
        await until(world, lambda view: instances(view) == "vm1/v1 vm2/v2")
        await world.report("vm1", "default/reviews/v1", False)
        view = await until(world, lambda view: instances(view) == "vm2/v2")
        assert view.held == ()
        await world.report("vm1", "default/reviews/v1", True)
        await until(world, lambda view: instances(view) == "vm1/v1 vm2/v2")

    async def test_failed_answers_hold_everything_and_say_so(self, world: World) -> None:
        world.watcher.watch([REVIEWS])
        await world.publish("vm1", [service(REVIEWS, "v1", target=world.target)])
        before = await until(world, lambda view: bool(instances(view)) and view.connected)
        await world.cut()
        view = await until(world, lambda view: bool(view.held) and not view.connected)
        assert view.instances == before.instances
        assert view.error
        assert [(held.service, held.until) for held in view.held] == [(REVIEWS, None)]
        await world.heal()
        view = await until(world, lambda view: view.connected and not view.held, patience=20.0)
        assert view.instances == before.instances
        assert view.error == ""

    async def test_a_change_during_a_cut_arrives_afterwards(self, world: World) -> None:
        world.watcher.watch([REVIEWS])
        await world.publish("vm1", [service(REVIEWS, "v1", target=world.target)])
        await until(world, lambda view: bool(instances(view)))
        await world.cut()
        await until(world, lambda view: not view.connected)
        await world.publish("vm2", [service(REVIEWS, "v2", target=world.target)])
        await world.heal()
        await until(world, lambda view: instances(view) == "vm1/v1 vm2/v2", patience=20.0)


@asynccontextmanager
async def running(*backends: Discovery) -> AsyncIterator[None]:
    """The backends' `run` for the time of the block."""
    async with trio.open_nursery() as nursery:
        for backend in backends:
            nursery.start_soon(backend.run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def application() -> AsyncIterator[int]:
    """A port on which something answers during the block."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
