"""What this host runs, as rows for people: `meshctl proxy config` and the admin socket.

Everything comes from the compiled snapshot that workers got, so that an answer
shows what is in force and not what was meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meshd.agent.store import Identity
from meshkit.model.resources import HTTPMatch, StringMatch
from meshkit.snapshot.codec import decode
from meshkit.snapshot.types import (
    ADDRESSES,
    AddressTable,
    EdgeServer,
    HostConfig,
    OutboundHost,
    Route,
    Snapshot,
    TCPRoute,
)

Row = dict[str, Any]


def answer(
    what: str, snapshot: Snapshot | None, identities: Mapping[str, Identity]
) -> dict[str, Any]:
    """``{what: [row, …]}``; ``error`` where the question is unknown."""
    if what == "certs":
        return {"certs": [_certificate(i) for _, i in sorted(identities.items())]}
    rows = _ROWS.get(what)
    if rows is None:
        return {"error": f"unknown {what!r}; ask for one of certs, {', '.join(_ROWS)}"}
    return {what: list(rows(snapshot)) if snapshot is not None else []}


def host_config(snapshot: Snapshot) -> HostConfig:
    return decode(HostConfig, snapshot.blobs[snapshot.host])


def _certificate(identity: Identity) -> Row:
    return {
        "name": identity.name,
        "identity": identity.spiffe,
        "serial": identity.serial,
        "notBefore": identity.life.issued,
        "notAfter": identity.life.expires,
    }


def _hosts(snapshot: Snapshot) -> Iterator[tuple[str, OutboundHost]]:
    for scope, hosts in sorted(snapshot.scopes.items()):
        for name, digest in sorted(hosts.items()):
            if name != ADDRESSES:
                yield scope, decode(OutboundHost, snapshot.blobs[digest])


def _routes(snapshot: Snapshot) -> Iterator[Row]:
    for scope, host in _hosts(snapshot):
        for port, routes in sorted(host.ports.items()):
            for route in routes:
                yield {"scope": scope, "host": host.host, "port": port, **_route(route)}
        for port, connections in sorted(host.tcp.items()):
            for connection in connections:
                row = _tcp_route(host, port, connection)
                yield {"scope": scope, "host": host.host, "port": port, **row}


def _tcp_route(host: OutboundHost, port: int, route: TCPRoute) -> Row:
    """The same fields as of HTTP; what only requests have is empty."""
    auto = port in host.ports
    names = " or ".join(f"sni {name}" for name in route.sni_hosts)
    return {
        "protocol": "TLS" if route.sni_hosts else "TCP",
        "name": route.name,
        "match": [names or ("not HTTP" if auto else "always")],
        "destinations": {d.cluster: d.weight for d in route.destinations},
        "timeout": None,
        "retries": None,
        "origin": route.origin,
    }


def _route(route: Route) -> Row:
    return {
        "protocol": "HTTP",
        "name": route.name,
        "match": [_match(m) for m in route.match],
        "destinations": {d.cluster: d.weight for d in route.destinations},
        "timeout": route.timeout,
        "retries": route.retry.attempts,
        "origin": route.origin,
    }


def _match(match: HTTPMatch) -> str:
    single = {"uri": match.uri, "method": match.method, "authority": match.authority}
    parts = [_condition(name, value) for name, value in single.items() if value is not None]
    parts += [_condition(f"header {name}", value) for name, value in match.headers]
    parts += [_condition(f"without {name}", value) for name, value in match.without_headers]
    parts += [_condition(f"query {name}", value) for name, value in match.query_params]
    return " and ".join(parts) or "always"


def _condition(name: str, match: StringMatch) -> str:
    return f"{name} present" if match.kind == "present" else f"{name} {match.kind} {match.value}"


def _clusters(snapshot: Snapshot) -> Iterator[Row]:
    for scope, host in _hosts(snapshot):
        for name, cluster in sorted(host.clusters.items()):
            yield {
                "scope": scope,
                "name": name,
                "protocol": cluster.protocol,
                "balancer": cluster.balancer,
                "endpoints": len(cluster.endpoints),
                "accounts": list(cluster.accounts),
            }


def _endpoints(snapshot: Snapshot) -> Iterator[Row]:
    for scope, host in _hosts(snapshot):
        for name, cluster in sorted(host.clusters.items()):
            for endpoint in cluster.endpoints:
                yield {
                    "scope": scope,
                    "cluster": name,
                    "address": f"{endpoint.address}:{endpoint.port}",
                    "protocol": cluster.protocol,
                    "tls": "mutual" if endpoint.sni else "plaintext",
                    "instance": endpoint.instance,
                    "weight": endpoint.weight,
                    "labels": dict(endpoint.labels),
                }


def _listeners(snapshot: Snapshot) -> Iterator[Row]:
    config = host_config(snapshot)
    modes = {
        (f"{w.namespace}/{w.service}", p.port): p.mode for w in config.workloads for p in w.ports
    }
    servers: dict[str, list[str]] = {}
    for server in config.edge:
        servers.setdefault(server.listener, []).append(_server(server))
    for spec in config.listeners:
        yield {
            "id": spec.id,
            "kind": spec.kind,
            "protocol": "by ALPN" if spec.kind == "mesh" else spec.protocol,
            "address": f"{spec.address}:{spec.port}",
            "service": spec.service,
            "upstream": ":".join(map(str, spec.upstream)) if spec.upstream else "",
            "owner": spec.owner,
            "mode": modes.get((spec.service, spec.service_port), ""),
            "servers": servers.get(spec.id, []),
        }


def _server(server: EdgeServer) -> str:
    """``*.example.org (TLS passed through)``: a gateway's server in a cell."""
    tls = "TLS passed through" if server.passthrough else ""
    ended = f"{server.protocol} in TLS" if server.certificate else server.protocol
    return f"{','.join(server.hosts)} ({tls or ended})"


def _addresses(snapshot: Snapshot) -> Iterator[Row]:
    """Where captured connections lead, by original destination."""
    for scope, hosts in sorted(snapshot.scopes.items()):
        if ADDRESSES in hosts:
            table = decode(AddressTable, snapshot.blobs[hosts[ADDRESSES]])
            for address, (host, port) in sorted(table.entries.items()):
                yield _address(scope, address, host, port)
            for network, number, host, port in table.networks:
                yield _address(scope, f"{network}:{number}", host, port)


def _address(scope: str, address: str, host: str, port: int) -> Row:
    named = host or "(by server name)"
    return {"scope": scope, "address": address, "host": named, "port": port}


_ROWS: Mapping[str, Callable[[Snapshot], Iterator[Row]]] = {
    "routes": _routes,
    "clusters": _clusters,
    "endpoints": _endpoints,
    "listeners": _listeners,
    "addresses": _addresses,
}
