"""Calls to the policy server: `ca.client` with the faults turned into exit statuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from ca.client import APIError, PolicyClient, Unreachable
from meshctl.context import Operator
from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.problems import refused_lines

_REMEDIES = {
    "certificate_refused": "the operator's certificate may have expired: `meshctl check` says; "
    "`mesh-ca init` on the control host renews it",
}


def failure_of(fault: APIError | Unreachable) -> Failure:
    """Any fault of a call, as the command ends with it."""
    if isinstance(fault, Unreachable):
        remedy = _REMEDIES.get(fault.reason, fault.remedy)
        return Failure(Exit.UNREACHABLE, fault.message, remedy)
    known = Exit.NOT_FOUND if fault.status == 404 else Exit.REFUSED
    code = Exit.UNREACHABLE if fault.status >= 500 else known
    return Failure(code, fault.message, fault.remedy, refused_lines(fault.problems))


class AsyncApi:
    """The server as trio code calls it; one connection is kept between calls."""

    def __init__(self, operator: Operator) -> None:
        try:
            self._client = PolicyClient(
                operator.address,
                roots=operator.roots.read_text(encoding="ascii"),
                certificate=operator.certificate,
                key=operator.key,
                trust_domain=operator.trust_domain,
                root_namespace=operator.root_namespace,
            )
        except (OSError, ValueError) as fault:
            raise Failure(
                Exit.NO_CONTEXT, f"the context {operator.folder} cannot be used: {fault}"
            ) from None

    async def __aenter__(self) -> AsyncApi:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        return await _told(self._client.get(path, query))

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await _told(self._client.post(path, body))

    async def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await _told(self._client.put(path, body))

    async def delete(self, path: str) -> dict[str, Any]:
        return await _told(self._client.delete(path))


async def _told(call: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await call
    except (APIError, Unreachable) as fault:
        raise failure_of(fault) from None


class PolicyApi:
    """The same for commands, which wait: each call runs trio to its end."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        return self._run(lambda api: api.get(path, query))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._run(lambda api: api.post(path, body))

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._run(lambda api: api.put(path, body))

    def delete(self, path: str) -> dict[str, Any]:
        return self._run(lambda api: api.delete(path))

    def _run(self, call: Callable[[AsyncApi], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        async def whole() -> dict[str, Any]:
            async with AsyncApi(self._operator) as api:
                return await call(api)

        return trio.run(whole)
