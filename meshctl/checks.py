"""The judgements behind ``meshctl check``: plain values in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

from meshctl.context import Operator
from meshctl.output import age
from meshctl.view import Host, Status
from meshkit.names import ServiceName, qualify, service_of


class Outcome(StrEnum):
    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy`` is what to do next; "" for what is well."""

    outcome: Outcome
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {"outcome": self.outcome.value, "text": self.text, "remedy": self.remedy}


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, "findings": [f.as_json() for f in self.findings]}


HOST_SOON = 3600.0
"""Seconds.  A leaf lives 24 h and is renewed at half: an hour left means many failed tries."""
AUTHORITY_SOON = 30 * 86400.0
"""Seconds: a month to plan a root's or an operator's renewal."""


def _well(text: str) -> Finding:
    return Finding(Outcome.OK, text)


def expiry(name: str, not_after: float, now: float, soon: float, remedy: str) -> Finding:
    """One certificate: expired is bad, ending within ``soon`` seconds a warning."""
    left = not_after - now
    if left <= 0:
        return Finding(Outcome.BAD, f"{name} expired {age(-left)} ago", remedy)
    if left < soon:
        return Finding(Outcome.WARN, f"{name} ends in {age(left)}", remedy)
    return _well(f"{name} is valid for {age(left)}")


def judge_context(operator: Operator, now: float) -> Iterator[Finding]:
    """The operator's own directory and certificate."""
    yield _well(f"context {operator.folder} speaks to {operator.address} as {operator.name}")
    yield expiry(
        "the operator's certificate",
        operator.not_after,
        now,
        AUTHORITY_SOON,
        "run `mesh-ca init` again on the control host and copy its operator directory",
    )


def _authority(status: Status, now: float) -> Iterator[Finding]:
    yield _well(f"the policy server answers, at revision {status.revision}")
    for certificate in status.authority:
        yield expiry(
            certificate.identity,
            certificate.not_after,
            now,
            AUTHORITY_SOON,
            "run `mesh-ca init` on the control host and restart mesh-ca: it renews what is due",
        )


def _host_state(host: Host, now: float) -> Finding:
    if host.connected:
        return _well(f"{host.name} is connected")
    since = f"away for {age(now - host.seen)}" if host.seen else "never connected"
    return Finding(
        Outcome.BAD,
        f"{host.name} is {since}",
        f"on {host.name}: `systemctl status meshd`, then `journalctl -u meshd`",
    )


def _host_revision(host: Host, newest: int) -> Finding:
    if not host.accepted:
        return Finding(
            Outcome.BAD,
            f"{host.name} refused a revision and runs {host.revision}: {host.reason}",
            "mend the resource and apply again, or go back: see `meshctl history`",
        )
    if host.revision < newest:
        return Finding(
            Outcome.WARN,
            f"{host.name} runs revision {host.revision}, the newest is {newest}",
            "wait a second and check again; if it stays, look at `journalctl -u meshd` there",
        )
    return _well(f"{host.name} runs revision {host.revision}")


def _host_workers(host: Host) -> Iterator[Finding]:
    if host.connected and not host.workers:
        yield Finding(
            Outcome.BAD,
            f"{host.name} has no worker: it carries no traffic",
            f"on {host.name}: `journalctl -u meshd-proxy@1`",
        )


def _host_certificates(host: Host, now: float) -> Iterator[Finding]:
    remedy = f"on {host.name}: `journalctl -u meshd` says why renewal fails"
    first = min(host.certificates, key=lambda c: c.not_after, default=None)
    if first is None:
        if host.connected:
            yield Finding(Outcome.BAD, f"{host.name} holds no certificate", remedy)
        return
    yield expiry(f"{host.name}: {first.identity}", first.not_after, now, HOST_SOON, remedy)


def _host_services(host: Host) -> Iterator[Finding]:
    for service, reason, remedy in host.refused:
        text = f"{host.name} may not serve {service}: {reason}"
        yield Finding(Outcome.BAD, text, remedy or "entitle the host: `meshctl token create`")


def _hosts(status: Status, now: float) -> Iterator[Finding]:
    if not status.hosts:
        yield Finding(Outcome.WARN, "no host has joined", "see `meshctl token create --help`")
    for host in status.hosts:
        yield _host_state(host, now)
        if host.connected:
            yield _host_revision(host, status.revision)
            yield from _host_workers(host)
        yield from _host_certificates(host, now)
        yield from _host_services(host)


def _discovery(status: Status) -> Iterator[Finding]:
    for host in (h for h in status.hosts if h.connected):
        known = host.discovery
        if not known.connected:
            yield Finding(
                Outcome.BAD,
                f"{host.name} cannot reach discovery ({known.kind}); it goes on with what it knows",
                f"check that the {known.kind} of {host.name} runs and lets meshd in",
            )
        for service, reason in known.held:
            yield Finding(
                Outcome.WARN,
                f"{host.name} holds the last good set of {service}: {reason}",
                "if its instances are really gone, it is dropped by itself; else mend discovery",
            )
        if known.connected and not known.held:
            yield _well(f"{host.name} sees {known.instances} instances ({known.kind})")


def destinations(resources: Iterable[Mapping[str, Any]], domain: str) -> set[ServiceName]:
    """Services of the mesh that VirtualServices route to."""
    found = set()
    for resource in resources:
        if resource["kind"] != "VirtualService":
            continue
        namespace = resource["metadata"].get("namespace", "default")
        spec = resource["spec"]
        for rule in chain.from_iterable(spec.get(kind) or () for kind in ("http", "tls", "tcp")):
            for route in rule.get("route", ()):
                host = qualify(route["destination"]["host"], namespace, domain)
                found.add(service_of(host, domain))
    return {service for service in found if service is not None}


def _services(status: Status, resources: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    declared = {service.name: service.endpoints for service in status.services}
    for name, endpoints in sorted(declared.items()):
        if endpoints:
            yield _well(f"{name} has {endpoints} endpoint{'s' * (endpoints != 1)}")
        else:
            yield Finding(
                Outcome.BAD,
                f"{name} has no endpoint: callers get 503 UH",
                "start the application, and look at its health check on its host",
            )
    for service in sorted(destinations(resources, status.domain)):
        if str(service) not in declared:
            yield Finding(
                Outcome.WARN,
                f"a VirtualService routes to {service}, which no host declares",
                "declare it in services.d of a host, or correct the route",
            )


def judge(status: Status, resources: Sequence[Mapping[str, Any]], now: float) -> list[Group]:
    """Every group that needs the server's answer, in the order of what depends on what."""
    groups = [
        Group("Policy server", tuple(_authority(status, now))),
        Group("Hosts", tuple(_hosts(status, now))),
        Group("Discovery", tuple(_discovery(status))),
        Group("Services", tuple(_services(status, resources))),
    ]
    return [group for group in groups if group.findings]
