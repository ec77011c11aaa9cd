"""The streams: what a member lacks, then every change, message by message.

A stream remembers what it has sent and compares that with what is; it is woken
by a bell, so a burst of changes costs one message and a slow reader gets the
latest state instead of a backlog.  A ping every 15 s shows both sides that the
other is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from ca.access import Role
from ca.calls_hosts import mesh_json
from ca.faults import Fault, invalid
from ca.http import Send, Streamed
from ca.hub import Session
from ca.plane import Call, Plane
from ca.policy import to_wire

PING_INTERVAL = 15.0


async def policy_stream(plane: Plane, call: Call) -> Streamed:
    """``?revision=N``: what the member runs already; 0 or nothing = all of it."""
    text = call.request.query.get("revision", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise invalid("query parameter 'revision' must be a whole number")
    known = int(text)
    if call.request.query.get("epoch", plane.epoch) != plane.epoch:
        known = 0
    return Streamed(_PolicyStream(plane, call, known).run)


@dataclass(slots=True)
class _PolicyStream:
    plane: Plane
    call: Call
    revision: int
    naming: int = 0
    roots: Mapping[str, str] | None = None
    started: bool = False

    async def run(self, send: Send) -> None:
        caller = self.call.caller
        host = caller.name if caller.role is Role.HOST else ""
        session = self.plane.hub.open(caller.identity, host)
        self.plane.log.info("stream_opened", who=caller.identity, revision=self.revision)
        try:
            await send({"type": "mesh", "epoch": self.plane.epoch, **mesh_json(self.plane)})
            while not session.replaced and _still_allowed(self.plane, self.call):
                heard = session.bell.count
                await self._send_what_is_new(session, send)
                if not await _rung(session.bell.heard(heard)):
                    await send({"type": "ping"})
        finally:
            self.plane.hub.close(session)
            self.plane.log.info("stream_closed", who=caller.identity, revision=self.revision)

    async def _send_what_is_new(self, session: Session, send: Send) -> None:
        roots = self.plane.authority.roots()
        if roots != self.roots:
            await send({"type": "roots", "roots": roots})
            self.roots = roots
        await self._send_naming(send)
        if not self.started or self.revision != self.plane.policy.head:
            await self._send_policy(send)
        while session.queries:
            await send(session.queries.popleft())

    async def _send_naming(self, send: Send) -> None:
        directory = self.plane.directory
        if directory.generation != self.naming:
            self.naming = directory.generation
            services = directory.naming_json(self.plane.authority.mesh.trust_domain)
            await send({"type": "naming", "services": services})

    async def _send_policy(self, send: Send) -> None:
        """The difference to what the member has; all, where it has what we never had."""
        store = self.plane.store
        whole = self.revision == 0 or self.revision > self.plane.policy.head
        head, changed, deleted = await store.changes_since(0 if whole else self.revision)
        if whole or head != self.revision:
            await send(
                {
                    "type": "state" if whole else "changes",
                    "revision": head,
                    "resources": [to_wire(resource) for resource in changed],
                    "deleted": [] if whole else deleted,
                }
            )
        self.revision, self.started = head, True


def _still_allowed(plane: Plane, call: Call) -> bool:
    try:
        plane.access.caller(call.request.chain, call.caller.role, plane.now())
    except Fault as fault:
        plane.log.warning("stream_ended", who=call.caller.identity, reason=fault.code)
        return False
    return True


async def _rung(heard: Any) -> bool:
    """Whether it rang within a ping's interval."""
    with trio.move_on_after(PING_INTERVAL):
        await heard
        return True
    return False


async def registry_stream(plane: Plane, call: Call) -> Streamed:
    """Every service with its instances first, then the services that changed."""

    async def run(send: Send) -> None:
        sent, first = 0, True
        while _still_allowed(plane, call):
            heard, now = plane.registry_bell.count, plane.registry.generation
            services = plane.registry.services(sent)
            if first or (services and sent != now):
                message = {"type": "instances", "full": first, "services": services}
                await send(message)
            sent, first = now, False
            if not await _rung(plane.registry_bell.heard(heard)):
                await send({"type": "ping"})

    return Streamed(run)
