"""Discovery through the host's own Consul agent."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

import trio

from meshd.discovery.base import View
from meshd.discovery.board import Board, Clock
from meshd.discovery.consul_http import ConsulAddress, ConsulClient
from meshd.discovery.consul_register import DRAIN, TTL, Registrar
from meshd.discovery.consul_watch import BLOCKING, Watcher
from meshd.discovery.faults import Faults
from meshd.discovery.local import HostAddress
from meshd.discovery.view import HoldRules
from meshkit.model.resources import LocalService
from meshkit.names import ServiceName


class ConsulDiscovery:
    """`meshd.discovery.base.Discovery` over one Consul agent.

    Args:
        address: the agent's HTTP API, ``[http[s]://]host:port``.
        token_file: a file with the ACL token; None sends none.
        ca_file: PEM roots for https; None = the system's.
        ttl: seconds after which this host's instances go when meshd is dead.
        drain: seconds between the mark of leaving and the deregistration.
        blocking: watches by blocking query; services beyond are polled.

    Raises:
        ValueError: the address is not one.
    """

    def __init__(
        self,
        address: str,
        host: HostAddress,
        *,
        token_file: Path | None = None,
        ca_file: Path | None = None,
        rules: HoldRules | None = None,
        clock: Clock = time.monotonic,
        ttl: float = TTL,
        drain: float = DRAIN,
        blocking: int = BLOCKING,
    ) -> None:
        self._client = ConsulClient(ConsulAddress.parse(address), token_file, ca_file)
        self._board = Board(rules, clock)
        faults = Faults(self._board, f"Consul at {address}")
        self._registrar = Registrar(self._client, host, faults, clock, ttl, drain)
        self._watcher = Watcher(self._client, self._board, faults, self._registrar.wake, blocking)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._registrar.run)
                nursery.start_soon(self._watcher.run)
                nursery.start_soon(self._board.run_holds)
        finally:
            with trio.move_on_after(1, shield=True):
                await self._client.http.close()

    async def register(self, services: Sequence[LocalService]) -> None:
        self._registrar.wish(services)
        await trio.lowlevel.checkpoint()

    def report_health(self, instance: str, healthy: bool) -> None:
        self._registrar.report(instance, healthy)

    def watch(self, services: Collection[ServiceName] | None) -> None:
        self._watcher.want(None if services is None else frozenset(services))

    def view(self) -> View:
        return self._board.view

    async def changed(self) -> None:
        await self._board.changed()
