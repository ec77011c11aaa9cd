"""Where requests enter, and what each entry knows: inbound, proxy, local port, edge.

An entry turns a request head into an `Action` or an `Unroutable` with the
reason.  It also says what is added towards the upstream and taken away from the
downstream.  A gateway's entry is the outbound one with an edge in front: other
limits, hosts of its servers, and the client's address from the peer.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

from meshd.worker.live import Scope, suffixes
from meshkit.http.errors import HTTPError
from meshkit.http.h1 import Field, RequestHead
from meshkit.http.limits import Limits
from meshkit.snapshot.types import EdgeServer
from meshkit.telemetry.peer import Facts

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext
    from meshd.worker.routes import Action, VirtualHost


class Unroutable(Exception):
    """No action for this request; `reason` is a key of meshkit.http.errors.REPLIES."""

    def __init__(self, reason: str, detail: str = "", location: bytes = b"") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail
        self.location = location


class Caller:
    """Whose identity a request leaves with: a local workload, or the gateway."""

    __slots__ = ("facts", "header", "identity", "scope")

    def __init__(self, identity: str, scope: str, facts: Facts, header: bytes) -> None:
        self.identity = identity
        self.scope = scope
        self.facts = facts
        self.header = header
        """``x-baremesh-source: …\\r\\n``, rendered once."""


def split_authority(authority: bytes) -> tuple[str, int]:
    """``Host`` → lower-case name without a trailing dot, and port (0: none given)."""
    text = authority.decode("ascii", "replace").lower()
    if text.startswith("["):
        name, _, tail = text[1:].partition("]")
        port = tail[1:] if tail.startswith(":") else ""
    else:
        name, _, port = text.partition(":")
    return name.rstrip("."), int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0


def fields_of(lines: bytes) -> list[Field]:
    """Rendered header lines, each with its CRLF, taken apart again."""
    pairs = (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in pairs]


class Entry:
    """What `Downstream` and `Exchange` need of any entry."""

    reporter = "source"
    inbound = False
    """Inbound strips and reads x-baremesh-source; the others read the answer's facts."""
    edge = False
    principal = ""
    """SPIFFE id of the peer; "" on plaintext."""
    upstream_extra = b""
    """Header lines added to every request of this connection, rendered once."""
    mesh_peer = False
    sni = ""
    facts_header = b""
    who = ""
    """The other side's identity in telemetry: the peer's inbound, the caller's elsewhere."""
    identity = ""
    """SPIFFE id that connections upstream are made with."""
    caller: Caller | None = None
    refusal = "route_not_found"

    def __init__(self, ctx: WorkerContext, limits: Limits, local: str, remote: str) -> None:
        self.lines: dict[object, bytes] = {}
        """Access-log formats of this connection, by all that they hold as constants."""
        self.ctx = ctx
        self.limits = limits
        self.local = local
        self.remote = remote

    @cached_property
    def upstream_fields(self) -> list[Field]:
        """`upstream_extra` as HTTP/2 has it."""
        return fields_of(self.upstream_extra)

    @cached_property
    def facts_fields(self) -> list[Field]:
        return fields_of(self.facts_header)

    def action(self, head: RequestHead, path: bytes) -> Action:
        """The route of a request; raises Unroutable."""
        raise Unroutable(self.refusal)

    def forbidden(self) -> str:
        """Why a connection that is open is not allowed any more; "" = it still is."""
        return ""


def refusing(entry: Entry, reason: str) -> Entry:
    """The same entry, but every request is answered with this key of REPLIES."""

    def action(head: RequestHead, path: bytes) -> Action:
        raise Unroutable(reason)

    other = copy(entry)
    other.action = action  # type: ignore[method-assign]
    return other


class InboundEntry(Entry):
    """The mesh port or a plaintext service port: one local workload's port."""

    reporter = "destination"
    inbound = True

    def __init__(
        self,
        ctx: WorkerContext,
        limits: Limits,
        local: str,
        remote: str,
        action: Action,
        facts_header: bytes,
        principal: str,
        sni: str,
        place: tuple[str, int],
    ) -> None:
        super().__init__(ctx, limits, local, remote)
        self._action = action
        self._place = place
        self._revision = ctx.live.revision
        self.facts_header = facts_header
        self.principal = self.who = principal
        self.sni = sni
        self.mesh_peer = bool(principal)

    def action(self, head: RequestHead, path: bytes) -> Action:
        if self._revision != self.ctx.live.revision:
            self._look_again()
        return self._action

    def _look_again(self) -> None:
        """After a change: the application may have moved, plaintext may be forbidden.

        A port that is gone is served on as it was: its callers are about to leave.
        Raises HTTPError, which closes the connection.
        """
        self._revision = self.ctx.live.revision
        now = self.ctx.inbound_port(*self._place)
        if now is None:
            return
        reason = self.forbidden()
        if reason:
            self.ctx.refused(reason, detail=f"{now[0].id} from {self.remote}")
            raise HTTPError(403, reason, "this port takes mutual TLS only")
        self._action = self.ctx.inbound_action(*now)

    def forbidden(self) -> str:
        if self.principal:
            return ""
        now = self.ctx.inbound_port(*self._place)
        strict = now is not None and now[1].mode == "STRICT"
        return "plaintext_under_strict" if strict else ""


class OutboundEntry(Entry):
    """The local proxy port: the Host of each request names the service."""

    def __init__(
        self, ctx: WorkerContext, limits: Limits, local: str, remote: str, caller: Caller
    ) -> None:
        super().__init__(ctx, limits, local, remote)
        self.caller = caller
        self.upstream_extra = caller.header
        self.identity = self.who = caller.identity
        self.scope = caller.scope

    def action(self, head: RequestHead, path: bytes) -> Action:
        if head.scheme == b"https":
            raise Unroutable("host_not_found", "only http:// targets: the mesh adds the TLS")
        scope = self.ctx.live.scopes.get(self.scope)
        known = scope.authorities.get(head.authority) if scope is not None else None
        if known is None:
            known = self._learn(head.authority)
        host, port, only = known
        if only is not None:  # one route that takes everything: most services
            return only  # type: ignore[return-value]
        return self._choose(host, port, head, path)

    def _learn(self, authority: bytes) -> tuple[VirtualHost, int, object]:
        scope = self._scope()
        name, port = split_authority(authority)
        host = scope.find(name)
        if host is None:
            raise Unroutable("host_not_found", name)
        port = port or default_port(host)
        known = (host, port, host.only(port))
        scope.remember(authority, *known)
        return known

    def _scope(self) -> Scope[VirtualHost]:
        assert self.caller is not None
        scope = self.ctx.live.scopes.get(self.caller.scope)
        if scope is None:
            raise Unroutable("host_not_found", "no service is reachable from here yet")
        return scope

    def _choose(self, host: VirtualHost, port: int, head: RequestHead, path: bytes) -> Action:
        action = host.find(port, head.method, path, head.authority, head.headers)
        if action is None:
            bytes_only = host.tcp.has(port) and not host.has(port)
            reason = "port_not_http" if bytes_only else "route_not_found"
            raise Unroutable(reason, f"{host.spec.host}:{port}")
        return action


def default_port(host: VirtualHost) -> int:
    """No port in Host: 80 where the service has it, else its only port."""
    ports = host.ports()
    return ports[0] if 80 not in ports and len(ports) == 1 else 80


class LocalEntry(OutboundEntry):
    """An explicit local port: the upstream is the listener's, whatever Host says."""

    def __init__(
        self,
        ctx: WorkerContext,
        limits: Limits,
        local: str,
        remote: str,
        caller: Caller,
        upstream: tuple[str, int],
    ) -> None:
        super().__init__(ctx, limits, local, remote, caller)
        self._host, self._port = upstream

    def action(self, head: RequestHead, path: bytes) -> Action:
        host = self._scope().find(self._host)
        if host is None:
            raise Unroutable("host_not_found", self._host)
        return self._choose(host, self._port, head, path)


class EdgeEntry(OutboundEntry):
    """A gateway's port: strangers, so everything they claim about identity goes."""

    edge = True

    def __init__(
        self,
        ctx: WorkerContext,
        limits: Limits,
        local: str,
        remote: str,
        caller: Caller,
        listener: str,
        chosen: EdgeServer | None,
    ) -> None:
        super().__init__(ctx, limits, local, remote, caller)
        self._listener = listener
        self._revision = ""
        self._servers: tuple[EdgeServer, ...] = ()
        self._chosen = chosen
        address = remote.rpartition(":")[0].strip("[]")
        scheme = "https" if chosen is not None and chosen.certificate else "http"
        self.upstream_extra = (
            caller.header
            + (f"x-forwarded-for: {address}\r\nx-forwarded-proto: {scheme}\r\n").encode()
        )

    def action(self, head: RequestHead, path: bytes) -> Action:
        name, _ = split_authority(head.authority)
        server = pick_server(self._known(), name)
        if server is None:
            raise Unroutable("host_not_found", name)
        if self._chosen is not None and server.certificate != self._chosen.certificate:
            raise Unroutable("misdirected_request", name)
        if server.https_redirect and not server.certificate:
            raise Unroutable("https_required", name, b"https://" + name.encode() + head.path)
        scope = self.ctx.live.scopes.get(server.scope)
        host = scope.find(name) if scope is not None else None
        if host is None:
            raise Unroutable("route_not_found", name)
        return self._choose(host, 0, head, path)

    def _known(self) -> tuple[EdgeServer, ...]:
        """The servers of this port as they are now: the connection may be older."""
        if self._revision != self.ctx.live.revision:
            self._revision = self.ctx.live.revision
            self._servers = self.ctx.edge_servers(self._listener)
        return self._servers


def pick_server(servers: tuple[EdgeServer, ...], host: str) -> EdgeServer | None:
    """The most specific server for a host: exact, then the longest wildcard, then ``*``."""
    for pattern in (host, *suffixes(host)):
        for server in servers:
            if pattern in server.hosts:
                return server
    return None
