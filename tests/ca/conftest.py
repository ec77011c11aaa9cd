"""A control plane in this process, over real TLS on loopback."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import trio

from ca.authority import Authority, open_authority
from ca.client import PolicyClient
from ca.log import Log
from ca.plane import Plane, open_plane
from ca.server import Server, open_listeners
from ca.store.sqlite import SqliteStore
from meshkit.identity import spiffe
from meshkit.identity.csr import judge_request, make_key_and_request
from meshkit.names import MeshSettings


@dataclass
class Control:
    """The server, and clients of every kind."""

    plane: Plane
    server: Server
    address: str
    output: StringIO
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def authority(self) -> Authority:
        return self.plane.authority

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.output.getvalue().splitlines())
        return [line for line in lines if line["event"] == name]

    def certified(
        self,
        identity: str,
        *,
        now: float = 0.0,
        lifetime: float = 3600,
        by: Authority | None = None,
    ) -> tuple[bytes, bytes]:
        """(certificate chain, key) of any identity."""
        key, request = make_key_and_request()
        authority = by or self.authority
        public = judge_request(request, identity)
        issued = authority.issue(identity, public, now or self.plane.now(), lifetime)
        return issued.chain.encode(), key

    async def client(self, pair: tuple[bytes, bytes] | None = None, **more: Any) -> PolicyClient:
        certificate, key = pair or (None, None)
        more = {"roots": self.authority.root_pem, "trust_domain": "td", "timeout": 5.0, **more}
        client = PolicyClient(self.address, certificate=certificate, key=key, **more)
        return await self.stack.enter_async_context(client)

    async def operator(self) -> PolicyClient:
        return await self.client(self.certified(spiffe.operator_id("td", "admin")))

    async def token(self, host: str, *accounts: str) -> str:
        answer = await (await self.operator()).post(
            "/v1/tokens", {"host": host, "accounts": list(accounts)}
        )
        return str(answer["token"])

    async def host(self, name: str, *accounts: str) -> PolicyClient:
        """Join a host for real; its client."""
        token = await self.token(name, *accounts)
        joiner = await self.client(roots="", fingerprint=token.split(".")[2], trust_domain="")
        key, request = make_key_and_request()
        body = {"token": token, "host": name, "csr": request.decode()}
        answer = await joiner.post("/v1/join", body)
        return await self.client((answer["certificate"].encode(), key))


@pytest.fixture
async def control(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Control]:
    output = StringIO()
    authority = open_authority(tmp_path / "state", time.time(), MeshSettings(trust_domain="td"))
    store = SqliteStore(tmp_path / "state" / "policy.db")
    plane = await open_plane(authority, store, Log(output))
    server = Server(plane, tmp_path / "state", ("localhost",))
    listeners = await open_listeners("127.0.0.1", 0)
    await nursery.start(server.run, listeners)
    port = listeners[0].socket.getsockname()[1]
    control = Control(plane, server, f"127.0.0.1:{port}", output)
    async with control.stack:
        yield control
    nursery.cancel_scope.cancel()
    await store.close()


@pytest.fixture
def make_csr() -> Callable[[], str]:
    return lambda: make_key_and_request()[1].decode()
