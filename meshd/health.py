"""Health checks of local applications: one good answer admits, two bad ones remove.

Consul runs its own checks; this is for the embedded registry and for files,
where nobody else asks.  The verdict is a pure state machine, the loop is thin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import h11
import trio

from meshkit.model.resources import Health, LocalService

FALL = 2
"""One lost answer happens under load; two in a row are an application that is down."""
MAX_ANSWER = 65536


@dataclass(slots=True)
class Verdict:
    """``healthy`` None = not asked yet, which no caller may take for healthy."""

    healthy: bool | None = None
    failures: int = 0

    def record(self, good: bool) -> bool:
        """Take one answer; True if the verdict changed."""
        before = self.healthy
        self.failures = 0 if good else self.failures + 1
        if good:
            self.healthy = True
        elif before is None or self.failures >= FALL:
            self.healthy = False
        return self.healthy is not before


def instance_id(service: LocalService) -> str:
    return f"{service.namespace}/{service.name}/{service.instance}"


async def probe(address: str, health: Health) -> bool:
    """Ask the application once: HTTP 2xx, or a TCP connect; False also after the timeout."""
    with trio.move_on_after(health.timeout):
        try:
            stream = await trio.open_tcp_stream(address, health.port)
        except OSError:
            return False
        async with stream:
            return await _http_ok(stream, address, health.http) if health.http else True
    return False


async def _http_ok(stream: trio.SocketStream, address: str, path: str) -> bool:
    connection = h11.Connection(h11.CLIENT)
    head = h11.Request(
        method="GET",
        target=path,
        headers=[("Host", address), ("User-Agent", "meshd-health"), ("Connection", "close")],
    )
    try:
        await stream.send_all(connection.send(head) + connection.send(h11.EndOfMessage()))
        return await _status(stream, connection) // 100 == 2
    except (OSError, trio.BrokenResourceError, h11.ProtocolError):
        return False


async def _status(stream: trio.SocketStream, connection: h11.Connection) -> int:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(MAX_ANSWER))
        elif not isinstance(event, h11.InformationalResponse):
            return 0


Report = Callable[[str, bool], None]
Probe = Callable[[str, Health], Awaitable[bool]]


async def watch(service: LocalService, report: Report, ask: Probe = probe) -> None:
    """Ask for ever, report each change; without a ``health`` the service counts as healthy."""
    if service.health is None:
        report(instance_id(service), True)
        return
    verdict = Verdict()
    while True:
        begun = trio.current_time()
        if verdict.record(await ask(service.address, service.health)):
            report(instance_id(service), bool(verdict.healthy))
        # An application that is not up yet is asked more often, so that a start is seen soon.
        pause = service.health.interval if verdict.healthy else min(1.0, service.health.interval)
        await trio.sleep_until(begun + pause)


async def watch_all(services: Sequence[LocalService], report: Report, ask: Probe = probe) -> None:
    """`watch` every service until cancelled."""
    async with trio.open_nursery() as nursery:
        for service in services:
            nursery.start_soon(watch, service, report, ask)
