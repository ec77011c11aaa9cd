"""The client of the policy server, for agents and for meshctl: trio and h11.

The server proves its SPIFFE id before a byte of a call is sent.  Two ways to
trust it:

- ``roots``: the mesh's roots, as a member has them;
- ``fingerprint``: the SHA-256 of the root, which a join token carries.  The first
  handshake is then only looked at: the root with that fingerprint must be in the
  chain that the server sends, and the second handshake verifies against it.

One connection is kept between calls.  It is not used again after `REUSE` seconds
of rest, so that the server, which closes at 75, never closes under a call.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import h11
import trio
from cryptography import x509

from ca import tls
from ca.wire import (
    BROKEN,
    APIError,
    Messages,
    Unreachable,
    Wire,
    api_error,
    breaking,
    cause_of,
    read_object,
    tls_fault,
)
from meshkit.identity import pem, spiffe
from meshkit.identity.judge import Refused, judge, leaf_identity

__all__ = ["APIError", "Messages", "PolicyClient", "Unreachable"]

TIMEOUT = 15.0
"""Seconds for a whole call; the server gives a host 5 to answer a query."""


class PolicyClient:
    """Calls to one policy server; see the module for trust.

    ``address`` is ``host:port``.  ``roots`` is PEM.  ``certificate`` and ``key`` are
    PEM bytes, or files that are read for every new connection.  With
    ``trust_domain`` and ``root_namespace`` the server must have that very id; left
    empty (a joiner knows neither) it must be the policy server's of the domain
    that the pinned root certifies.
    """

    def __init__(
        self,
        address: str,
        *,
        roots: str = "",
        fingerprint: str = "",
        certificate: bytes | Path | None = None,
        key: bytes | Path | None = None,
        trust_domain: str = "",
        root_namespace: str = "",
        timeout: float = TIMEOUT,
    ) -> None:
        if not roots and not fingerprint:
            raise ValueError("give the mesh's roots, or the fingerprint of one")
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise ValueError(f"{address!r} is not host:port")
        self.address = address
        self.roots = roots
        self.timeout = timeout
        self._host, self._port = host.strip("[]"), int(port)
        self._fingerprint = fingerprint.lower()
        self._certificate, self._key = certificate, key
        self._trust_domain, self._root_namespace = trust_domain, root_namespace
        self._idle: Wire | None = None

    async def __aenter__(self) -> PolicyClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection that is kept between calls; the client stays usable."""
        wire, self._idle = self._idle, None
        if wire is not None:
            await wire.close()

    async def get(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        return await self._call("GET", _target(path, query), None)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("POST", _target(path), body)

    async def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("PUT", _target(path), body)

    async def delete(self, path: str) -> dict[str, Any]:
        return await self._call("DELETE", _target(path), None)

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str | int] | None = None
    ) -> AsyncIterator[Messages]:
        """Open a stream: ``async with client.stream("/v1/stream") as messages``."""
        with self._deadline():
            wire = await self._connect()
        try:
            with self._deadline(), breaking(self.address):
                await wire.send("GET", _target(path, query), None)
                head = await wire.event()
                if head.status_code != 200:
                    raise api_error(head.status_code, await wire.body())
            yield Messages(wire)
        finally:
            await wire.close()

    async def _call(
        self, method: str, target: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        with self._deadline():
            wire = await self._take()
            try:
                with breaking(self.address):
                    await wire.send(method, target, data)
                    status = (await wire.event()).status_code
                    answer = await wire.body()
            except BaseException:
                await wire.close()
                raise
            await self._give_back(wire)
        if status != 200:
            raise api_error(status, answer)
        return read_object(answer)

    @contextlib.contextmanager
    def _deadline(self) -> Any:
        try:
            with trio.fail_after(self.timeout):
                yield
        except trio.TooSlowError:
            raise Unreachable(
                "timeout",
                f"the policy server {self.address} did not answer within {self.timeout:g} s",
                "see that mesh-ca runs there and that no firewall is between",
            ) from None

    async def _take(self) -> Wire:
        wire, self._idle = self._idle, None
        if wire is not None:
            if wire.is_fresh(trio.current_time()):
                return wire
            await wire.close()
        return await self._connect()

    async def _give_back(self, wire: Wire) -> None:
        if self._idle is None and wire.http.our_state is wire.http.their_state is h11.DONE:
            wire.http.start_next_cycle()
            wire.used = trio.current_time()
            self._idle = wire
        else:
            await wire.close()

    async def _connect(self) -> Wire:
        if not self.roots:
            self.roots = await self._pinned_root()
        context = self._context()
        stream = await self._handshake(context)
        try:
            self._check_server(tls.verified_chain(stream._ssl_object))
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return Wire(stream, self.address, trio.current_time())

    def _context(self) -> ssl.SSLContext:
        try:
            context = tls.client_context(self.roots)
            if self._certificate is not None and self._key is not None:
                tls.load_pair(context, _pem(self._key), _pem(self._certificate))
        except OSError as error:
            raise Unreachable(
                "tls",
                f"our own certificate, key or roots cannot be used: {cause_of(error)}",
                "join again, or restore the files",
            ) from error
        return context

    async def _pinned_root(self) -> str:
        """The root with our fingerprint, out of what the server sends; nothing is sent."""
        stream = await self._handshake(tls.unverified_context())
        chain = tls.presented_chain(stream._ssl_object)
        await trio.aclose_forcefully(stream)
        for der in chain:
            if pem.fingerprint(der) == self._fingerprint:
                return pem.from_der([der])
        raise Unreachable(
            "identity",
            f"{self.address} is not of the mesh that this token is for",
            "check the policy server's address; else make a new token there",
        )

    async def _handshake(self, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
        try:
            tcp = await trio.open_tcp_stream(self._host, self._port)
        except OSError as error:
            raise Unreachable(
                "connect",
                f"cannot reach the policy server {self.address}: {cause_of(error)}",
                "see that mesh-ca runs there and that the address is right",
            ) from error
        stream = trio.SSLStream(tcp, context, https_compatible=True)
        try:
            await stream.do_handshake()
        except BROKEN as error:
            await trio.aclose_forcefully(stream)
            raise tls_fault(self.address, error) from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    def _check_server(self, chain: list[bytes]) -> None:
        domain = self._trust_domain or _domain_of(chain)
        verdict = judge(chain, {domain: pem.to_der(self.roots)})
        if not verdict.reason:
            got = spiffe.parse(verdict.identity).account or ("", "")
            if got == (self._root_namespace or got[0], spiffe.SERVER_ACCOUNT):
                return
        raise Unreachable(
            "identity",
            f"{self.address} is not the policy server of this mesh "
            f"({verdict.identity or verdict.reason})",
            "check the address",
        )


def _domain_of(chain: list[bytes]) -> str:
    """The trust domain that a leaf claims; the pinned root vouches for it."""
    try:
        return leaf_identity(x509.load_der_x509_certificate(chain[0])).trust_domain
    except (Refused, ValueError, IndexError):
        return ""


def _pem(value: bytes | Path) -> bytes:
    return value.read_bytes() if isinstance(value, Path) else value


def _target(path: str, query: Mapping[str, str | int] | None = None) -> str:
    target = quote(path, safe="/%~")
    return f"{target}?{urlencode(query)}" if query else target
