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
from meshkit.snapshot.types import HostConfig, OutboundHost, Route, Snapshot

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
        for _, digest in sorted(hosts.items()):
            yield scope, decode(OutboundHost, snapshot.blobs[digest])


def _routes(snapshot: Snapshot) -> Iterator[Row]:
    for scope, host in _hosts(snapshot):
        for port, routes in sorted(host.ports.items()):
            for route in routes:
                yield {"scope": scope, "host": host.host, "port": port, **_route(route)}


def _route(route: Route) -> Row:
    return {
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
    for spec in config.listeners:
        yield {
            "id": spec.id,
            "kind": spec.kind,
            "address": f"{spec.address}:{spec.port}",
            "service": spec.service,
            "upstream": ":".join(map(str, spec.upstream)) if spec.upstream else "",
            "mode": modes.get((spec.service, spec.service_port), ""),
        }


_ROWS: Mapping[str, Callable[[Snapshot], Iterator[Row]]] = {
    "routes": _routes,
    "clusters": _clusters,
    "endpoints": _endpoints,
    "listeners": _listeners,
}
