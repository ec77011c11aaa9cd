"""py-consul on trio: its wrappers return whatever its HTTP client's methods return.

So with a client whose methods return awaitables, ``await client.health.service(…)``
is all it takes.  What is set here and not left to the library: the token (the
environment's would silently win), the number of connections (httpx's pool stops
at 100, Consul cuts a client address off at 200), `stale` reads, and which
answers count as failed.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from consul import base
from consul.exceptions import ConsulException

CONNECTIONS = 150  # Consul's http_max_conns_per_client is 200, and others share the address
WAIT = 60.0  # seconds a blocking query is held; half-dead agents are noticed after it
WAIT_SLACK = WAIT / 16 + 5.0  # Consul adds up to wait/16 of jitter
CALL_TIMEOUT = 10.0

FAULTS = (ConsulException, httpx.HTTPError, OSError, ValueError)
"""What a call may raise because the backend is ill."""

Params = Sequence[tuple[str, Any]] | None
Callback = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class ConsulAddress:
    """Where the host's own Consul agent answers: ``[http[s]://]host:port``."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ConsulAddress:
        """Raises ValueError with the expected form."""
        match = re.fullmatch(r"(?:(https?)://)?(\[[0-9a-fA-F:.]+]|[^\s:/\[\]]+):(\d{1,5})/?", text)
        if match is None:
            raise ValueError(f"Consul address {text!r}: expected host:port, such as 127.0.0.1:8500")
        return cls(match[1] or "http", match[2], int(match[3]))


class TrioHTTPClient(base.HTTPClient):  # type: ignore[misc]
    """The pluggable client of py-consul, over httpx; every method returns an awaitable."""

    def __init__(self, address: ConsulAddress, ca_file: Path | None) -> None:
        super().__init__(address.host, address.port, address.scheme)
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            trust_env=False,
            verify=_verification(address, ca_file),
        )

    async def _call(
        self, callback: Callback, method: str, uri: str, headers: Any, data: Any, wait: float
    ) -> Any:
        timeout = httpx.Timeout(CALL_TIMEOUT, read=CALL_TIMEOUT + wait)
        answer = await self._client.request(
            method, uri, headers=headers, content=data or None, timeout=timeout
        )
        if answer.is_success:  # a refusal says "no leader" beside whatever it is about
            refuse_unbelievable(answer.headers)
        return callback(base.Response(answer.status_code, answer.headers, answer.text))

    def get(
        self,
        callback: Callback,
        path: str,
        params: Params = None,
        headers: Mapping[str, str] | None = None,
        raw: bool = False,
    ) -> Awaitable[Any]:
        """A `stale` read where the catalog is read: any server may answer, none leads."""
        asked = list(params or ())
        wait = WAIT + WAIT_SLACK if any(name == "index" for name, _ in asked) else 0.0
        if path.startswith(("/v1/health/", "/v1/catalog/")):
            asked.append(("stale", "1"))
        return self._call(callback, "GET", self.uri(path, asked), headers, None, wait)

    def put(
        self,
        callback: Callback,
        path: str,
        params: Params = None,
        data: str | bytes = "",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[Any]:
        uri = self.uri(path, list(params or ()))
        return self._call(callback, "PUT", uri, headers, data, 0.0)

    def delete(
        self,
        callback: Callback,
        path: str,
        params: Params = None,
        data: str | bytes = "",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[Any]:
        uri = self.uri(path, list(params or ()))
        return self._call(callback, "DELETE", uri, headers, data, 0.0)

    def post(
        self,
        callback: Callback,
        path: str,
        params: Params = None,
        data: str | bytes = "",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[Any]:
        uri = self.uri(path, list(params or ()))
        return self._call(callback, "POST", uri, headers, data, 0.0)

    async def close(self) -> None:
        await self._client.aclose()


def _verification(address: ConsulAddress, ca_file: Path | None) -> ssl.SSLContext | bool:
    """False for plain http, where reading all roots would only cost time."""
    if address.scheme == "http":
        return False
    return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)


def refuse_unbelievable(headers: httpx.Headers) -> None:
    """Raise ConsulException for an answer that may lack what is there.

    A server without a leader answers stale reads from what it has, which after
    a restart is nothing; a token without rights gets a filtered list.
    """
    if headers.get("X-Consul-KnownLeader", "true") == "false":
        raise ConsulException("the Consul servers have no leader")
    if headers.get("X-Consul-Results-Filtered-By-ACLs", "false") == "true":
        raise ConsulException("the ACL token may not read all of the answer")


class ConsulClient(base.Consul):  # type: ignore[misc]
    """py-consul's API with awaitable results.

    ``token_file`` is read now and again by `reload_token`; without it no token
    is sent, whatever the environment says.
    """

    def __init__(
        self, address: ConsulAddress, token_file: Path | None = None, ca_file: Path | None = None
    ) -> None:
        self._address = address
        self._ca_file = ca_file
        self._token_file = token_file
        super().__init__(address.host, address.port, scheme=address.scheme, verify=True)
        self.token: str | None = None
        self.reload_token()

    def http_connect(self, *_: Any) -> TrioHTTPClient:
        return TrioHTTPClient(self._address, self._ca_file)

    def reload_token(self) -> None:
        """A missing or unreadable file keeps the last token."""
        if self._token_file is not None:
            try:
                self.token = self._token_file.read_text().strip()
            except OSError:
                return
