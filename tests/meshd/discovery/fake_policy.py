"""A policy server in memory: the real registry behind the calls that discovery makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from ca import forms
from ca.hub import Bell
from ca.registry import MAX_INSTANCES, MAX_LEASE, MIN_LEASE, Registry, read_instance
from ca.streams import PING_INTERVAL


class Away(Exception):
    """The server cannot be reached."""


class Server:
    def __init__(self) -> None:
        self.registry = Registry()
        self.bell = Bell()

    def expire(self) -> None:
        if self.registry.expire(trio.current_time()):
            self.bell.ring()


class Client:
    """One host's connection.  ``calls`` counts the puts that arrived."""

    def __init__(self, server: Server, host: str) -> None:
        self._server, self._host = server, host
        self._up = trio.CancelScope()
        self.is_cut = False
        self.calls = 0

    def cut(self) -> None:
        self.is_cut = True
        self._up.cancel()

    def heal(self) -> None:
        self.is_cut = False

    def _check(self) -> None:
        if self.is_cut:
            raise Away("connection refused")

    async def put(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        self._check()
        assert path == "/v1/registry"
        self.calls += 1
        lease = forms.number(body, "lease", MIN_LEASE, MAX_LEASE)
        rows = [read_instance(one) for one in forms.objects(body, "instances", MAX_INSTANCES)]
        if self._server.registry.put(self._host, rows, lease, trio.current_time()):
            self._server.bell.ring()
        return {}

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        self._check()
        assert path == "/v1/registry/stream"
        yield self._messages()

    async def _messages(self) -> AsyncIterator[dict[str, Any]]:
        sent, first, registry = 0, True, self._server.registry
        while True:
            heard, now = self._server.bell.count, registry.generation
            services = registry.services(sent)
            if first or services:
                yield {"type": "instances", "services": services}
            sent, first = now, False
            with trio.CancelScope() as self._up, trio.move_on_after(PING_INTERVAL) as quiet:
                await self._server.bell.heard(heard)
            if self._up.cancelled_caught:
                raise Away("connection reset")
            if quiet.cancelled_caught:
                yield {"type": "ping"}
