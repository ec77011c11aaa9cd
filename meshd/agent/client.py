"""The policy server as the agent uses it, and how a client for it is made.

Everything behind `Client` is `ca.client.PolicyClient`; the agent's tasks take the
protocol, so that tests give them a server in memory.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from ca.client import APIError, Unreachable
from meshd.agent.store import Membership

_TOKEN = re.compile(r"bm\d+\.[a-z2-7]+\.[0-9a-f]{64}")
"""Version, secret, fingerprint of the root (docs/control-plane.md)."""

FAULTS = (APIError, Unreachable)
"""Everything that a call may raise; the next attempt may succeed."""


class Client(Protocol):
    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...
    async def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...
    def stream(
        self, path: str, query: Mapping[str, str | int] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]: ...


class Connector(Protocol):
    """Makes clients: the host's own, and those of a host that has no certificate yet."""

    def as_host(self, member: Membership) -> Client:
        """With the host's certificate as it is on disk now."""
        ...

    def with_token(self, token: str) -> Client:
        """Without a certificate; the server is known by the token's root fingerprint."""
        ...

    def anonymous(self, member: Membership) -> Client:
        """Without a certificate; the server is known by the roots (renewal after expiry)."""
        ...


class HostClient:
    """A client for as long as the agent lives: each call uses the certificate of then."""

    def __init__(self, member: Callable[[], Membership | None], connector: Connector):
        self._member = member
        self._connector = connector

    def _client(self) -> Client:
        member = self._member()
        if member is None:
            raise OSError("this host has not joined the mesh yet")
        return self._connector.as_host(member)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._client().post(path, body)

    async def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._client().put(path, body)

    def stream(
        self, path: str, query: Mapping[str, str | int] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]:
        return self._client().stream(path, query)


class NoToken(Exception):
    """This host has no identity and no token to get one with."""


def read_token(path: Path | None, host: str) -> str:
    """The join token from its file; NoToken with what the operator should do."""
    command = f"meshctl token create --host {host} --account <namespace>/<account>"
    if path is None:
        raise NoToken(f"set controlPlane.tokenFile and put there the token of `{command}`")
    try:
        token = path.read_text(encoding="ascii", errors="replace").strip()
    except PermissionError as error:
        raise NoToken(f"{path}: {error.strerror}; run as the file's owner") from error
    except OSError as error:
        raise NoToken(f"{path}: {error.strerror}; put there the token of `{command}`") from error
    if not token:
        raise NoToken(f"{path} is empty; put there the token of `{command}`")
    if not _TOKEN.fullmatch(token):
        raise NoToken(f"{path} holds no join token; put there the whole line of `{command}`")
    return token
