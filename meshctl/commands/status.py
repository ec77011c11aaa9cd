"""``meshctl status``: what the policy server knows of every host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from meshctl.output import Cell, Format, Table, age, emit, format_option
from meshctl.state import State, pass_state
from meshctl.view import Host, Status, parse

SOON = 3600.0
"""Seconds: a certificate that ends sooner than this is shown as a warning."""


def _revision(host: Host, newest: int) -> Cell:
    if not host.accepted:
        return Cell(f"{host.revision} (refused)", "bad")
    return Cell(str(host.revision), "ok" if host.revision >= newest else "warn")


def _expiry(host: Host, now: float) -> Cell:
    """The certificate of the host that ends first."""
    if not host.certificates:
        return Cell("none", "bad")
    left = min(certificate.not_after for certificate in host.certificates) - now
    if left <= 0:
        return Cell(f"expired {age(-left)} ago", "bad")
    return Cell(age(left), "ok" if left > SOON else "warn")


def _discovery(host: Host) -> Cell:
    known = host.discovery
    if not known.connected:
        return Cell(f"{known.kind}: away", "bad")
    if known.held:
        return Cell(f"{known.kind}: {len(known.held)} held", "warn")
    return Cell(f"{known.kind}: {known.instances} instances", "ok")


def _connection(host: Host, now: float) -> Cell:
    if host.connected:
        return Cell("connected", "ok")
    return Cell(f"away for {age(now - host.seen)}" if host.seen else "never seen", "bad")


def host_table(status: Status, now: float) -> Table:
    rows = [
        (
            host.name,
            _connection(host, now),
            _revision(host, status.revision),
            len(host.workers),
            _expiry(host, now),
            _discovery(host),
            " ".join(host.services) or "-",
        )
        for host in status.hosts
    ]
    columns = ("host", "state", "revision", "workers", "certificates", "discovery", "services")
    return Table(columns, rows, "Hosts", "no host has joined; see `meshctl token create --help`")


def service_table(status: Status) -> Table:
    rows = [
        (
            service.name,
            Cell(str(service.endpoints), "ok" if service.endpoints else "bad"),
            " ".join(service.hosts) or "-",
            " ".join(service.accounts) or "-",
        )
        for service in status.services
    ]
    columns = ("service", "endpoints", "hosts", "served by accounts")
    return Table(columns, rows, "Services", "no host has declared a service")


def held_rows(status: Status) -> Iterator[tuple[str, str, str]]:
    """(host, service, why) of everything that discovery holds."""
    for host in status.hosts:
        for service, reason in host.discovery.held:
            yield host.name, service, reason


def _tables(status: Status, now: float) -> list[Table]:
    tables = [host_table(status, now), service_table(status)]
    held = list(held_rows(status))
    if held:
        tables.append(Table(("host", "service", "why"), held, "Held by discovery"))
    return tables


@click.command()
@format_option
@pass_state
def status(state: State, output: Format) -> None:
    """Show hosts, revisions, certificates, services, and what discovery holds."""
    answer: dict[str, Any] = state.api.get("/v1/status")
    known = parse(answer)
    if output == "table":
        click.echo(f"mesh revision {known.revision}\n")
    emit(output, "Status", answer, _tables(known, state.now()))
