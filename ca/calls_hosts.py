"""The calls of hosts: join, certificates, declarations, reports, the registry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography import x509

from ca import forms
from ca.admission import (
    Declaration,
    DeclaredPort,
    NameRefused,
    check_host,
    check_label,
    find,
)
from ca.faults import Fault, invalid
from ca.plane import Call, Plane, record_of
from ca.registry import MAX_INSTANCES, MAX_LEASE, MIN_LEASE, read_instance
from ca.store.base import TokenFault, TokenRefused
from meshkit.identity import pem, rotation, spiffe
from meshkit.identity.csr import PublicKey, RequestRefused, judge_request
from meshkit.identity.judge import Refused, leaf_identity
from meshkit.names import ServiceName

MAX_REQUESTS = 256
"""Accounts of one host signed in one call; each costs a signature."""
MAX_SERVICES = 1024
TOKEN_PREFIX = "bm1"
GRACE = 30 * 86400.0
"""Seconds after its expiry in which a host may still renew its own certificate."""

_TOKEN_FAULTS: dict[TokenFault, str] = {
    "unknown": "the join token is not known here",
    "used": "the join token has been used already",
    "expired": "the join token has expired",
    "other_host": "the join token is for another host name",
}


def token_digest(text: str) -> str:
    """SHA-256 of a token's secret part: all of it that is kept."""
    parts = text.split(".")
    if len(parts) != 3 or parts[0] != TOKEN_PREFIX or not parts[1]:
        raise Fault(
            401,
            "token_malformed",
            f"not a join token ({TOKEN_PREFIX}.….…)",
            "paste the whole line that `meshctl token create` printed",
        )
    return hashlib.sha256(parts[1].encode()).hexdigest()


async def join(plane: Plane, call: Call) -> Mapping[str, Any]:
    """A token for a host's first certificate.

    The certificate is made before the token is consumed, and given only to who
    consumed it: a failure in between costs nobody a token.
    """
    body = forms.obj(call.request.body)
    host, now = forms.get(body, "host", str), plane.now()
    try:
        digest = token_digest(forms.get(body, "token", str))
        identity = spiffe.host_id(plane.authority.mesh.trust_domain, check_host(host))
        await plane.store.check_token(digest, host, now)
        issued = plane.issue(identity, _judged(forms.get(body, "csr", str), identity))
        token = await plane.store.consume_token(digest, host, now, record_of(issued, host))
    except TokenRefused as refusal:
        plane.log.warning("join_refused", host=host[:253], reason=refusal.fault,
                          peer=call.request.peer)  # fmt: skip
        raise _token_fault(refusal, host) from None
    except NameRefused as error:
        raise invalid(str(error)) from None
    if await plane.directory.refresh():
        plane.hub.ring()
    accounts = [str(one) for one in token.entitlements]
    plane.log.info("joined", host=host, accounts=accounts, serial=issued.serial,
                   peer=call.request.peer)  # fmt: skip
    return {"certificate": issued.chain, "roots": plane.authority.roots(), "mesh": mesh_json(plane)}


def _token_fault(refusal: TokenRefused, host: str) -> Fault:
    remedy = f"make a new one: meshctl token create --host {host[:253]} --account NAMESPACE/ACCOUNT"
    if refusal.fault == "other_host":
        remedy = f"set host in the daemon's configuration to that name, or {remedy}"
    return Fault(401, f"token_{refusal.fault}", _TOKEN_FAULTS[refusal.fault], remedy)


def mesh_json(plane: Plane) -> dict[str, Any]:
    """What every member must agree on."""
    mesh = plane.authority.mesh
    return {
        "trustDomain": mesh.trust_domain,
        "domain": mesh.domain,
        "rootNamespace": mesh.root_namespace,
    }


def _judged(csr: str, identity: str) -> PublicKey:
    try:
        return judge_request(csr, identity)
    except RequestRefused as error:
        raise Fault(
            403,
            error.code,
            f"the certificate request is refused: {error}",
            "send a request with a P-256 key and no names; the identity is the caller's",
        ) from None


async def sign(plane: Plane, call: Call) -> Mapping[str, Any]:
    """Certificates for the host itself and its accounts; all of them or none."""
    requests = forms.objects(forms.obj(call.request.body), "requests", MAX_REQUESTS)
    host = call.caller.name
    keyed = []
    for one in requests:
        identity = _entitled(plane, host, forms.get(one, "account", str))
        keyed.append((identity, _judged(forms.get(one, "csr", str), identity)))
    issued = [plane.issue(identity, key) for identity, key in keyed]
    await plane.store.record_certificates([record_of(one, host) for one in issued])
    for new in issued:
        plane.log.info("issued", host=host, identity=new.identity, serial=new.serial,
                       not_after=new.not_after)  # fmt: skip
    return {"certificates": [one.chain for one in issued], "roots": plane.authority.roots()}


def _entitled(plane: Plane, host: str, account: str) -> str:
    """The SPIFFE id behind ``host`` or ``<namespace>/<account>``; Fault 403 if not entitled."""
    trust_domain = plane.authority.mesh.trust_domain
    if account == "host":
        return spiffe.host_id(trust_domain, host)
    namespace, _, name = account.partition("/")
    if find(plane.directory.hosts[host].entitlements, namespace, name) is None:
        plane.log.warning("sign_refused", host=host, account=account[:300])
        raise Fault(
            403,
            "not_entitled",
            f"host {host} is not entitled to account {account[:300]}",
            f"an operator may run: meshctl token create --host {host} --account {account[:300]}",
        )
    return spiffe.account_id(trust_domain, namespace, name)


async def renew(plane: Plane, call: Call) -> Mapping[str, Any]:
    """A host's certificate after the old one expired: its key is the proof.

    The request must be signed with the key of the expired certificate, which we
    must have issued to a host that is still a member.
    """
    body = forms.obj(call.request.body)
    leaf, identity = _expired_leaf(plane, forms.get(body, "certificate", str))
    host = identity.host or ""
    known = await plane.store.certificates(host) if host in plane.directory.hosts else []
    if f"{leaf.serial_number:x}" not in {one.serial for one in known}:
        raise _renewal_refused("this server did not issue it to a host that is still a member")
    key = _judged(forms.get(body, "csr", str), str(identity))
    if key != leaf.public_key():
        raise _renewal_refused("the request is not signed with the certificate's key")
    issued = plane.issue(str(identity), key)
    await plane.store.record_certificates([record_of(issued, host)])
    plane.log.info("renewed_after_expiry", host=host, serial=issued.serial)
    return {"certificate": issued.chain, "roots": plane.authority.roots(), "mesh": mesh_json(plane)}


def _expired_leaf(plane: Plane, text: str) -> tuple[x509.Certificate, spiffe.SpiffeId]:
    try:
        chain = [*pem.certificates(text)[:2], plane.authority.root]
        identity = leaf_identity(chain[0])
        issuer = chain[1].extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, Refused, x509.ExtensionNotFound) as error:
        raise _renewal_refused(f"it cannot be read: {error}") from None
    if len(chain) != 3 or not issuer.ca or not pem.is_issued_in_order(chain):
        raise _renewal_refused("it does not come from this mesh's authority")
    if plane.now() > rotation.validity(chain[0]).expires + GRACE:
        raise _renewal_refused("it expired more than 30 days ago")
    return chain[0], identity


def _renewal_refused(why: str) -> Fault:
    return Fault(
        403,
        "renewal_refused",
        f"the certificate cannot be renewed: {why}",
        "let the host join again: meshctl token create --host HOST --account …",
    )


async def declare(plane: Plane, call: Call) -> Mapping[str, Any]:
    """The whole set of this host's services; what is not admitted comes back with why."""
    body = forms.obj(call.request.body)
    try:
        declared = [_declaration(one) for one in forms.objects(body, "services", MAX_SERVICES)]
    except NameRefused as error:
        raise invalid(str(error)) from None
    admitted, refused, changed = await plane.directory.declare(call.caller.name, declared)
    if changed:
        plane.hub.ring()
    for one in refused:
        plane.log.warning("service_refused", host=call.caller.name, service=one.service,
                          reason=one.reason)  # fmt: skip
    return {
        "admitted": admitted,
        "refused": [
            {"service": r.service, "reason": r.reason, "remedy": r.remedy} for r in refused
        ],
    }


def _declaration(value: Mapping[str, Any]) -> Declaration:
    namespace = check_label(forms.get(value, "namespace", str, "default"), "namespace")
    name = check_label(forms.get(value, "name", str), "service")
    account = forms.get(value, "account", str, name)
    if "/" in account:
        of, _, account = account.partition("/")
        if of != namespace:
            raise NameRefused(f"service {namespace}/{name} cannot use an account of {of[:63]!r}")
    ports = tuple(
        DeclaredPort(
            forms.integer(port, "port", 1, 65535),
            forms.printable(forms.get(port, "name", str, "")[:63], "name"),
            forms.printable(forms.get(port, "protocol", str, "HTTP")[:16], "protocol"),
        )
        for port in forms.objects(value, "ports", 64)
    )
    instance = forms.printable(forms.get(value, "instance", str, "main")[:63], "instance")
    return Declaration(namespace, name, account[:253], instance, ports, forms.labels(value))


async def report(plane: Plane, call: Call) -> Mapping[str, Any]:
    """What the host runs: its acknowledgement of a revision, and its state."""
    body = forms.shown(forms.obj(call.request.body))
    kept = {
        "revision": forms.integer(body, "revision", 0, 2**53, 0),
        "accepted": forms.get(body, "accepted", bool, True),
        "reason": forms.get(body, "reason", str, "")[:4000],
        "workers": [dict(one) for one in forms.objects(body, "workers", 1024)],
        "certificates": [dict(one) for one in forms.objects(body, "certificates", 1024)],
        "discovery": dict(forms.obj(body.get("discovery") or {}, "field 'discovery'")),
        "services": forms.get(body, "services", list, [])[:MAX_SERVICES],
    }
    host = call.caller.name
    last = plane.hub.reports.get(host)
    if not kept["accepted"] and (last is None or last.body["reason"] != kept["reason"]):
        plane.log.warning("revision_refused", host=host, reason=kept["reason"],
                          revision=kept["revision"])  # fmt: skip
    plane.hub.report(host, kept, plane.now())
    return {"revision": plane.policy.head}


async def answer(plane: Plane, call: Call) -> Mapping[str, Any]:
    """A host's answer to a query that came over its stream."""
    body = forms.shown(forms.obj(call.request.body))
    if not plane.hub.answer(call.args[0], call.caller.name, body):
        raise Fault(404, "no_such_query", "nobody waits for this answer", "drop it")
    return {}


async def register(plane: Plane, call: Call) -> Mapping[str, Any]:
    """The whole set of this host's instances, under one lease.

    Only of services that the host is entitled to serve: another's would be refused by
    every caller, but each would have tried; and one that nobody serves yet has no
    secure naming, so that callers would go there in plaintext.
    """
    body, host = forms.obj(call.request.body), call.caller.name
    lease = forms.number(body, "lease", MIN_LEASE, MAX_LEASE)
    entitled = plane.directory.hosts[host].entitlements
    instances, refused = [], set()
    for one in map(read_instance, forms.objects(body, "instances", MAX_INSTANCES)):
        service = ServiceName(one["namespace"], one["service"])
        if any(entitlement.may_serve(service) for entitlement in entitled):
            instances.append(one)
        else:
            refused.add(str(service))
    _note_refused(plane, host, tuple(sorted(refused)))
    if plane.registry.put(host, instances, lease, plane.monotonic()):
        plane.registry_bell.ring()
    return {"lease": lease, "instances": len(instances), "refused": sorted(refused)}


def _note_refused(plane: Plane, host: str, refused: tuple[str, ...]) -> None:
    """Logged when it changes: hosts register every few seconds."""
    if refused != plane.registry.refused.get(host, ()):
        plane.registry.refused[host] = refused
        if refused:
            plane.log.warning("instances_refused", host=host, services=refused[:20])
