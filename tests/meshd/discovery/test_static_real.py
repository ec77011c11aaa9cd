"""StaticDiscovery on files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from meshd.discovery.base import Discovery
from meshd.discovery.embedded import to_wire
from meshd.discovery.local import HostAddress, instance_name, local_instances
from meshd.discovery.static import StaticDiscovery
from meshkit.model.dump import to_yaml
from meshkit.model.resources import LocalService
from tests.meshd.discovery.conformance import (
    REVIEWS,
    Conformance,
    World,
    instances,
    running,
    service,
    until,
)

HOSTS = {"vm1": HostAddress("vm1", "10.0.0.1", 15443), "vm2": HostAddress("vm2", "10.0.0.2", 15443)}
ONE = """\
name: reviews
instances:
- {host: vm1, instance: v1, address: 10.0.0.1, port: 9080, meshPort: 15443}
"""


class StaticWorld(World):
    """Each host has one file with all that it serves, replaced whole."""

    target = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "discovery"
        self.folder.mkdir()
        self._away = folder / "away"
        self._services: dict[str, list[LocalService]] = {}
        self._ill: set[tuple[str, str]] = set()
        host = HostAddress("watcher", "10.0.0.3", 15443)
        self.watcher: Discovery = StaticDiscovery(self.folder, host, poll=0.02)

    async def publish(self, host: str, services: Sequence[LocalService]) -> None:
        self._services[host] = list(services)
        self._write(host)

    async def report(self, host: str, instance: str, healthy: bool) -> None:
        self._ill.symmetric_difference_update({(host, instance)})
        assert healthy == ((host, instance) not in self._ill)
        self._write(host)

    def _write(self, host: str) -> None:
        folder = self._away if self._away.exists() else self.folder
        path = folder / f"{host}.yaml"
        text = "---\n".join(self._document(host, each) for each in self._services[host])
        if text:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").rename(path)
        else:
            path.unlink()

    def _document(self, host: str, service: LocalService) -> str:
        healthy = (host, instance_name(service)) not in self._ill
        rows = []
        for instance in local_instances([service], HOSTS[host]):
            row = {**to_wire(instance, healthy=healthy), "host": host}
            rows.append({k: v for k, v in row.items() if k not in ("service", "namespace")})
        return to_yaml({"name": service.name, "namespace": service.namespace, "instances": rows})

    async def cut(self) -> None:
        self.folder.rename(self._away)

    async def heal(self) -> None:
        self._away.rename(self.folder)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[StaticWorld]:
    world = StaticWorld(tmp_path)
    async with running(world.watcher):
        yield world


class TestConformance(Conformance):
    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        world = StaticWorld(tmp_path)
        async with running(world.watcher):
            yield world


async def test_a_mistake_keeps_what_the_file_said_before(world: StaticWorld) -> None:
    world.watcher.watch(None)
    path = world.folder / "a.yaml"
    path.write_text(ONE)
    before = await until(world, lambda view: bool(instances(view)))
    path.write_text(ONE.replace("9080", "ninety"))
    view = await until(world, lambda view: bool(view.error))
    assert view.instances == before.instances
    assert view.connected
    assert view.error.startswith(f"{path}:3:")
    assert [(h.service, h.until) for h in view.held] == [(REVIEWS, None)]
    path.write_text(ONE)
    await until(world, lambda view: not view.error and not view.held)


async def test_a_file_that_is_just_being_written_empties_nothing(world: StaticWorld) -> None:
    world.watcher.watch(None)
    path = world.folder / "a.yaml"
    path.write_text(ONE)
    await until(world, lambda view: bool(instances(view)))
    path.write_text("")
    view = await until(world, lambda view: "empty" in view.error)
    assert instances(view) == "vm1/v1"


async def test_local_services_need_no_file(world: StaticWorld) -> None:
    world.watcher.watch(None)
    local = service(REVIEWS, "v9", target=1)
    await world.watcher.register([local])
    (world.folder / "a.yaml").write_text(ONE)
    await until(world, lambda view: instances(view) == "vm1/v1 watcher/v9")
    world.watcher.report_health("default/reviews/v9", False)
    await until(world, lambda view: instances(view) == "vm1/v1")
    world.watcher.report_health("default/reviews/v9", True)
    await until(world, lambda view: instances(view) == "vm1/v1 watcher/v9")
    await world.watcher.register([replace(local, instance="v8")])
    view = await until(world, lambda view: instances(view) == "vm1/v1 watcher/v8")
    assert view.held == ()


async def test_a_folder_that_was_never_there_is_said(tmp_path: Path) -> None:
    missing = StaticDiscovery(tmp_path / "none", HOSTS["vm1"], poll=0.02)
    async with running(missing):
        while "none" not in missing.view().error:
            await missing.changed()
        assert not missing.view().connected
