"""Makes the host's Consul agent hold exactly the wished registrations, and keeps them alive.

One loop compares and mends: what the agent lacks or holds otherwise is
registered, what is ours and no longer wished drains (maintenance first, so that
every watcher sees it leave) and is then deregistered, and each TTL check gets
meshd's verdict.  The loop runs at a third of the TTL, and at once when a wish
changes or the agent came back, so an agent that lost its state is filled again
without anything special.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio
from consul.exceptions import ACLPermissionDenied

from meshd.discovery.board import Clock
from meshd.discovery.consul_http import FAULTS, ConsulClient
from meshd.discovery.consul_records import (
    MalformedAnswer,
    Registration,
    id_prefix,
    registrations,
)
from meshd.discovery.faults import Faults
from meshd.discovery.local import HostAddress
from meshd.discovery.timing import Backoff
from meshkit.model.resources import LocalService

TTL = 15.0  # seconds after which a host whose meshd died is taken out
DRAIN = 2.0  # longer than a watcher waits between two questions
DRAINING = "meshd: draining"
SOURCE = "registration"


class Registrar:
    """``drain`` seconds lie between an instance's last mark and its deregistration."""

    def __init__(
        self,
        client: ConsulClient,
        host: HostAddress,
        faults: Faults,
        clock: Clock,
        ttl: float = TTL,
        drain: float = DRAIN,
    ) -> None:
        self._client, self._host, self._faults, self._clock = client, host, faults, clock
        self._ttl, self._drain = ttl, drain
        self._wish: dict[str, Registration] | None = None
        self._health: dict[str, bool] = {}
        self._leaving: dict[str, float] = {}
        self._woken = trio.Event()

    def wish(self, services: Sequence[LocalService]) -> None:
        self._wish = registrations(services, self._host, self._ttl)
        self.wake()

    def report(self, instance: str, healthy: bool) -> None:
        if self._health.get(instance, True) != healthy:
            self._health[instance] = healthy
            self.wake()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Compare and mend until cancelled."""
        backoff = Backoff(longest=self._ttl / 3)
        while True:
            self._woken = trio.Event()
            try:
                await self.mend()
            except FAULTS as fault:
                if isinstance(fault, ACLPermissionDenied):
                    self._client.reload_token()
                self._faults.failed(SOURCE, fault)
                # Not until woken: a flood of wishes must not become one of calls.
                await trio.sleep(backoff.next())
            else:
                backoff.reset()
                self._faults.mended(SOURCE)
                await self._pause()

    async def _pause(self) -> None:
        wait = self._ttl / 3
        if self._leaving:
            wait = min(wait, max(0.0, min(self._leaving.values()) - self._clock()))
        with trio.move_on_after(wait):
            await self._woken.wait()

    async def mend(self) -> None:
        """One round.  Raises one of FAULTS.

        Before the first wish nothing is touched: what an earlier meshd
        registered goes on serving while this one starts.
        """
        services = _table(await self._client.agent.services())
        checks = _table(await self._client.agent.checks())
        wish = self._wish
        if wish is None:
            return
        for registration in wish.values():
            if not is_held(registration, services, checks):
                await self._register(registration)
            elif is_draining(registration.id, checks):
                await self._client.agent.service.maintenance(registration.id, False)
            await self._report(registration)
        ours = id_prefix(self._host.name)
        await self._retire([key for key in services if key.startswith(ours) and key not in wish])

    async def _register(self, registration: Registration) -> None:
        first, *others = [dict(check) for check in registration.checks]
        await self._client.agent.service.register(
            registration.name,
            service_id=registration.id,
            address=registration.address,
            port=registration.port,
            check=first,
            extra_checks=others,
            replace_existing_checks=True,
            meta=dict(registration.meta),
            weights={"Passing": 1, "Warning": 1},
            tagged_addresses=dict(registration.tagged_addresses),
        )

    async def _report(self, registration: Registration) -> None:
        check = self._client.agent.check
        if self._health.get(registration.instance, True):
            await check.ttl_pass(registration.ttl_check, notes="meshd serves it")
        else:
            await check.ttl_fail(registration.ttl_check, notes="meshd finds it unhealthy")

    async def _retire(self, ids: Sequence[str]) -> None:
        self._leaving = {key: due for key, due in self._leaving.items() if key in ids}
        for service_id in ids:
            if service_id not in self._leaving:
                await self._client.agent.service.maintenance(service_id, True, DRAINING)
                self._leaving[service_id] = self._clock() + self._drain
            if self._leaving[service_id] <= self._clock():
                await self._client.agent.service.deregister(service_id)
                del self._leaving[service_id]


def _table(answer: Any) -> Mapping[str, Any]:
    if not isinstance(answer, dict):
        raise MalformedAnswer("the agent's answer is not an object")
    return answer


def is_held(
    registration: Registration, services: Mapping[str, Any], checks: Mapping[str, Any]
) -> bool:
    """Whether the agent holds it as wished: the same digest, both checks there."""
    held = services.get(registration.id) or {}
    same = (held.get("Meta") or {}).get("baremesh-digest") == registration.meta["baremesh-digest"]
    return same and all(check in checks for check in registration.check_ids())


def is_draining(service_id: str, checks: Mapping[str, Any]) -> bool:
    """In maintenance by our own hand; an operator's `consul maint` is left alone."""
    mark = checks.get(f"_service_maintenance:{service_id}") or {}
    return bool(mark.get("Notes") == DRAINING)
