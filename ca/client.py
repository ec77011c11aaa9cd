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
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import h11
import trio

from ca import tls
from meshkit.identity import pem, spiffe
from meshkit.identity.judge import Refused, judge, leaf_identity

TIMEOUT = 15.0
"""Seconds for a whole call; the server gives a host 5 to answer a query."""
SILENCE = 45.0
"""Seconds without a message after which a stream is given up: three pings missed."""
REUSE = 20.0
MAX_AGE = 300.0
"""Seconds after which a connection is replaced: certificates and roots change."""
MAX_ANSWER = 64 << 20
"""Bytes of an answer, or of one message: the policy of a very large mesh."""
_CHUNK = 65536
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, h11.RemoteProtocolError)


class APIError(Exception):
    """The server said no.  ``problems`` are those of an applied bundle."""

    def __init__(
        self, status: int, code: str, message: str, remedy: str = "", problems: Sequence[Any] = ()
    ) -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.status = status
        self.code = code
        self.message = message
        self.remedy = remedy
        self.problems = list(problems)


class Unreachable(Exception):
    """No answer.  ``reason``: connect, timeout, tls, certificate_refused, identity, broken."""

    def __init__(self, reason: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.reason = reason
        self.message = message
        self.remedy = remedy


class _Wire:
    """One verified connection and its HTTP state."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], host: str, now: float) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)
        self.host = host
        self.born = self.used = now

    async def send(self, method: str, target: str, body: bytes | None) -> None:
        headers = [("Host", self.host), ("Accept", "application/json")]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        events = [h11.Request(method=method, target=target, headers=headers)]
        data = b"".join(self.http.send(event) or b"" for event in events)
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        await self.stream.send_all(data + (self.http.send(h11.EndOfMessage()) or b""))

    async def event(self) -> Any:
        """The next event of the answer, 1xx left out."""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(bytes(await self.stream.receive_some(_CHUNK)))
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("the server closed the connection")
            elif not isinstance(event, h11.InformationalResponse):
                return event

    async def body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while isinstance(event := await self.event(), h11.Data):
            parts.append(bytes(event.data))
            size += len(event.data)
            if size > MAX_ANSWER:
                raise trio.BrokenResourceError(f"the answer is over {MAX_ANSWER} bytes")
        return b"".join(parts)

    def is_fresh(self, now: float) -> bool:
        """Whether another call may go over it: rested shortly, young, nothing unread."""
        return (
            self.http.our_state is h11.IDLE
            and now - self.used < REUSE
            and now - self.born < MAX_AGE
            and not _has_news(self.stream.transport_stream)
        )

    async def close(self) -> None:
        with trio.move_on_after(1, shield=True):
            await self.stream.aclose()


def _has_news(tcp: trio.SocketStream) -> bool:
    """Whether an idle socket has bytes or an end to read: the server is closing it."""
    import socket

    raw = socket.socket(fileno=tcp.socket.fileno())
    try:
        raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        raw.detach()
    return True


class Messages:
    """The messages of one stream; ends when the server ends it."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._buffer = bytearray()
        self._searched = 0

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """The next message.  Unreachable when the connection broke or fell silent."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            event = await self._event()
            if not isinstance(event, h11.Data):
                raise StopAsyncIteration
            self._buffer += event.data
            if len(self._buffer) > MAX_ANSWER:
                raise Unreachable("broken", f"a message is over {MAX_ANSWER} bytes")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return _object(line)

    async def _event(self) -> Any:
        try:
            with trio.fail_after(SILENCE):
                return await self._wire.event()
        except trio.TooSlowError:
            raise Unreachable("timeout", f"nothing came for {SILENCE:g} s") from None
        except _BROKEN as error:
            raise Unreachable("broken", f"the stream broke: {_cause(error)}") from error


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
        self._idle: _Wire | None = None

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
            with self._deadline(), _breaking(self.address):
                await wire.send("GET", _target(path, query), None)
                head = await wire.event()
                if head.status_code != 200:
                    raise _api_error(head.status_code, await wire.body())
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
                with _breaking(self.address):
                    await wire.send(method, target, data)
                    status = (await wire.event()).status_code
                    answer = await wire.body()
            except BaseException:
                await wire.close()
                raise
            await self._give_back(wire)
        if status != 200:
            raise _api_error(status, answer)
        return _object(answer)

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

    async def _take(self) -> _Wire:
        wire, self._idle = self._idle, None
        if wire is not None:
            if wire.is_fresh(trio.current_time()):
                return wire
            await wire.close()
        return await self._connect()

    async def _give_back(self, wire: _Wire) -> None:
        if self._idle is None and wire.http.our_state is wire.http.their_state is h11.DONE:
            wire.http.start_next_cycle()
            wire.used = trio.current_time()
            self._idle = wire
        else:
            await wire.close()

    async def _connect(self) -> _Wire:
        if not self.roots:
            self.roots = await self._pinned_root()
        context = tls.client_context(self.roots)
        if self._certificate is not None and self._key is not None:
            tls.load_pair(context, _pem(self._key), _pem(self._certificate))
        stream = await self._handshake(context)
        try:
            self._check_server(tls.verified_chain(stream._ssl_object))
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return _Wire(stream, self.address, trio.current_time())

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
                f"cannot reach the policy server {self.address}: {_cause(error)}",
                "see that mesh-ca runs there and that the address is right",
            ) from error
        stream = trio.SSLStream(tcp, context, https_compatible=True)
        try:
            await stream.do_handshake()
        except _BROKEN as error:
            await trio.aclose_forcefully(stream)
            raise _tls_fault(self.address, error) from error
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
    from cryptography import x509

    try:
        return leaf_identity(x509.load_der_x509_certificate(chain[0])).trust_domain
    except (Refused, ValueError, IndexError):
        return ""


def _pem(value: bytes | Path) -> bytes:
    return value.read_bytes() if isinstance(value, Path) else value


def _target(path: str, query: Mapping[str, str | int] | None = None) -> str:
    target = quote(path, safe="/%~")
    return f"{target}?{urlencode(query)}" if query else target


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Unreachable("broken", "the server's answer is not JSON") from error
    if not isinstance(value, dict):
        raise Unreachable("broken", "the server's answer is not a JSON object")
    return value


def _api_error(status: int, answer: bytes) -> APIError:
    try:
        error = json.loads(answer)["error"]
        return APIError(
            status, error["code"], error["message"], error.get("remedy", ""), error["problems"]
        )
    except (ValueError, KeyError, TypeError):
        return APIError(status, "unknown", f"the server answered {status} without an explanation")


@contextlib.contextmanager
def _breaking(address: str) -> Any:
    """A connection that breaks during a call, told in the client's words."""
    try:
        yield
    except _BROKEN as error:
        raise _tls_fault(address, error) from error


def _tls_fault(address: str, error: BaseException) -> Unreachable:
    """In TLS 1.3 the refusal of our certificate comes with the first read."""
    cause = error.__cause__ or error
    reason = str(getattr(cause, "reason", "") or "")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Unreachable(
            "identity",
            f"{address} cannot be verified: {cause.verify_message}",
            "check the address, and that the roots are those of this mesh",
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "CA" in reason.split("_")):
        return Unreachable(
            "certificate_refused",
            f"{address} refused our certificate: {reason.lower().replace('_', ' ')}",
            "renew it, or join again with a new token",
        )
    kind = "tls" if isinstance(cause, ssl.SSLError) else "broken"
    return Unreachable(kind, f"the connection to {address} broke: {_cause(error)}", "try again")


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
