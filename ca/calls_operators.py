"""The calls of operators: tokens, hosts, policy, status, a look into a host."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import trio

from ca import forms
from ca.admission import Entitlement, NameRefused, check_host, merge, parse_entitlement
from ca.calls_hosts import TOKEN_PREFIX, mesh_json
from ca.faults import Fault, invalid
from ca.hub import NotConnected, Report
from ca.plane import Call, Plane
from ca.policy import MAX_DOCUMENTS, MAX_MESSAGE, revision_to_json, to_wire
from ca.store.base import Token
from meshkit.model.load import load_files

TOKEN_BYTES = 20
"""160 random bits: 32 characters of base32 without padding."""
TOKEN_TTL = 600.0
MIN_TTL, MAX_TTL = 1.0, 7 * 86400.0
MAX_ACCOUNTS = 256
MAX_HISTORY = 1000
QUERY_TIMEOUT = 5.0


async def whoami(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Who the server takes the caller for."""
    role = call.caller.role.name or ""
    return {
        "identity": call.caller.identity,
        "role": role.lower(),
        "name": call.caller.name,
        "expires": call.caller.expires,
        "mesh": mesh_json(plane),
    }


async def create_token(plane: Plane, call: Call) -> Mapping[str, Any]:
    """A one-time token.  To a host that has joined, the accounts are granted at once."""
    body = forms.obj(call.request.body)
    host, entitlements = _host_and_accounts(body, forms.get(body, "host", str))
    ttl, now = forms.number(body, "ttl", MIN_TTL, MAX_TTL, TOKEN_TTL), plane.now()
    secret = base64.b32encode(secrets.token_bytes(TOKEN_BYTES)).decode().lower()
    digest = hashlib.sha256(secret.encode()).hexdigest()
    token = Token(digest, host, entitlements, now, now + ttl, call.caller.identity)
    await plane.store.add_token(token)
    granted = await _grant(plane, host, entitlements)
    plane.log.info("token_created", host=host, accounts=[str(e) for e in entitlements],
                   ttl=ttl, author=call.caller.identity, granted=granted)  # fmt: skip
    return {
        "token": f"{TOKEN_PREFIX}.{secret}.{plane.authority.fingerprint()}",
        **_token_json(token),
        "granted": granted,
    }


def _host_and_accounts(body: Mapping[str, Any], host: str) -> tuple[str, tuple[Entitlement, ...]]:
    try:
        accounts = forms.strings(body, "accounts", MAX_ACCOUNTS)
        return check_host(host), merge((), map(parse_entitlement, accounts))
    except NameRefused as error:
        raise invalid(str(error), "`meshctl token create --help` shows the form") from None


async def _grant(plane: Plane, host: str, entitlements: Sequence[Entitlement]) -> bool:
    known = plane.directory.hosts.get(host)
    if known is None:
        return False
    await _entitle(plane, host, merge(known.entitlements, entitlements))
    return True


async def _entitle(plane: Plane, host: str, entitlements: Sequence[Entitlement]) -> None:
    await plane.store.entitle(host, entitlements)
    if await plane.directory.refresh():
        plane.hub.ring()


def _token_json(token: Token) -> dict[str, Any]:
    return {
        "host": token.host,
        "accounts": [str(one) for one in token.entitlements],
        "created": token.created,
        "expires": token.expires,
        "author": token.author,
    }


async def list_tokens(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Tokens that can still be used, without their text."""
    return {"tokens": [_token_json(one) for one in await plane.store.tokens(plane.now())]}


async def set_host(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Set exactly what a joined host is entitled to: also how something is taken away."""
    host, entitlements = _host_and_accounts(forms.obj(call.request.body), call.args[0])
    _require_host(plane, host)
    await _entitle(plane, host, entitlements)
    plane.log.info("entitled", host=host, accounts=[str(e) for e in entitlements],
                   author=call.caller.identity)  # fmt: skip
    return {"host": host, "accounts": [str(one) for one in entitlements]}


async def forget_host(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Remove a host: its calls are refused from now on, its services lose their naming."""
    host = call.args[0]
    _require_host(plane, host)
    await plane.store.forget_host(host)
    await plane.directory.refresh()
    plane.hub.reports.pop(host, None)
    plane.hub.drop(host)
    plane.hub.ring()
    if plane.registry.forget(host):
        plane.registry_bell.ring()
    plane.log.info("host_removed", host=host, author=call.caller.identity)
    return {"host": host}


def _require_host(plane: Plane, host: str) -> None:
    if host not in plane.directory.hosts:
        raise Fault(
            404,
            "host_unknown",
            f"no host {host[:253]} has joined",
            "`meshctl host list` shows those that have",
        )


async def apply(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Apply a bundle of YAML documents as one revision."""
    body = forms.obj(call.request.body)
    expected = body.get("expectedRevision")
    outcome = await plane.policy.apply(
        _sources(body),
        call.caller.identity,
        plane.now(),
        message=forms.get(body, "message", str, "")[:MAX_MESSAGE],
        expected=None if expected is None else forms.integer(body, "expectedRevision", 0, 2**53),
        dry_run=forms.get(body, "dryRun", bool, False),
    )
    return outcome.to_json()


def _sources(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    documents = forms.objects(body, "documents", MAX_DOCUMENTS)
    return [
        (forms.get(one, "source", str, "<api>")[:1024], forms.get(one, "text", str))
        for one in documents
    ]


async def delete(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Delete by key, or what documents name; one revision."""
    body = forms.obj(call.request.body)
    keys = forms.strings(body, "keys", MAX_DOCUMENTS)
    keys += [one.meta.key for one in load_files(_sources(body)).resources]
    if not keys:
        raise invalid("neither 'keys' nor 'documents' names a resource")
    message = forms.get(body, "message", str, "")[:MAX_MESSAGE]
    outcome = await plane.policy.delete(keys, call.caller.identity, plane.now(), message=message)
    return outcome.to_json()


async def resources(plane: Plane, call: Call) -> Mapping[str, Any]:
    """What is applied, narrowed by kind, namespace and name."""
    wanted = call.request.query
    found = [
        resource
        for resource in await plane.store.resources()
        if all(
            value in ("", wanted.get(field, "")) or not wanted.get(field)
            for field, value in zip(
                ("kind", "namespace", "name"), resource.key.split("/"), strict=True
            )
        )
    ]
    return {"revision": plane.policy.head, "resources": [to_wire(one) for one in found]}


async def history(plane: Plane, call: Call) -> Mapping[str, Any]:
    """The latest revisions, the newest first."""
    limit = min(_query_number(call, "limit", 20) or 0, MAX_HISTORY)
    found = await plane.store.history(limit, _query_number(call, "before", None))
    return {"revisions": [revision_to_json(one) for one in found]}


async def revision(plane: Plane, call: Call) -> Mapping[str, Any]:
    """One revision with its content, and everything as it stood then."""
    number = int(call.args[0]) if call.args[0].isascii() and call.args[0].isdigit() else 0
    found = await plane.store.revision(number)
    if found is None:
        raise Fault(
            404,
            "revision_unknown",
            f"there is no revision {call.args[0][:20]}",
            f"`meshctl history` lists them; the latest is {plane.policy.head}",
        )
    then = await plane.store.resources(number)
    return {**revision_to_json(found, content=True), "resources": [to_wire(r) for r in then]}


def _query_number(call: Call, name: str, default: int | None) -> int | None:
    text = call.request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise invalid(f"query parameter {name!r} must be a whole number")
    return int(text)


async def status(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Everything that is known of the mesh now."""
    return {
        "revision": plane.policy.head,
        "time": plane.now(),
        "mesh": mesh_json(plane),
        "hosts": [_host_json(plane, host) for host in sorted(plane.directory.hosts)],
        "services": _services_json(plane),
        "authority": _authority_json(plane),
        "registry": {"instances": sum(map(len, plane.registry.services().values()))},
    }


def _host_json(plane: Plane, name: str) -> dict[str, Any]:
    host, report = plane.directory.hosts[name], plane.hub.reports.get(name, Report({}, 0.0))
    return {
        "host": name,
        "connected": plane.hub.is_connected(name),
        "seen": report.seen,
        "joined": host.joined,
        "entitlements": [str(one) for one in host.entitlements],
        "revision": 0,
        "accepted": True,
        "reason": "",
        "workers": [],
        "certificates": [],
        "discovery": {},
        "services": [],
        **report.body,
        "refused": [asdict(refusal) for refusal in plane.directory.refusals(name)],
    }


def _services_json(plane: Plane) -> list[dict[str, Any]]:
    naming = plane.directory.naming_json(plane.authority.mesh.trust_domain)
    return [{"name": name, **facts, **_providers(plane, name)} for name, facts in naming.items()]


def _providers(plane: Plane, name: str) -> dict[str, Any]:
    """Hosts that declare the service, and how many instances connected ones have."""
    counts = {
        host: sum(str(one.service) == name for one in declared)
        for host, declared in plane.directory.declarations.items()
    }
    hosts = [host for host, count in counts.items() if count]
    live = sum(counts[host] for host in hosts if plane.hub.is_connected(host))
    return {"hosts": hosts, "endpoints": live}


def _authority_json(plane: Plane) -> list[dict[str, Any]]:
    authority = plane.authority
    pair = (("root", authority.root), ("intermediate", authority.intermediate.certificate))
    return [
        {
            "identity": f"{authority.mesh.trust_domain} {name}",
            "notAfter": certificate.not_valid_after_utc.timestamp(),
            "serial": f"{certificate.serial_number:x}",
        }
        for name, certificate in pair
    ]


async def host_config(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Ask a host what it runs, over the stream that it holds open; its answer as it is."""
    host, question = call.args[0], dict(call.request.query)
    _require_host(plane, host)
    try:
        answer = await plane.hub.query(host, {"what": "routes", **question}, QUERY_TIMEOUT)
    except NotConnected:
        raise Fault(
            503,
            "host_away",
            f"host {host} is not connected",
            f"on {host}: `systemctl status meshd`, then `journalctl -u meshd`",
        ) from None
    except trio.TooSlowError:
        raise Fault(
            504,
            "host_slow",
            f"host {host} did not answer within {QUERY_TIMEOUT:g} s",
            "try again; its log says what its agent is doing",
        ) from None
    return forms.obj(answer)
