"""``meshctl host``: who is a member, and what each may serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from meshctl.commands.get import when
from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.output import Cell, Format, Table, age, emit, format_option
from meshctl.state import State, pass_state
from meshctl.view import seconds_of

accounts_option = click.option(
    "--account",
    "accounts",
    multiple=True,
    required=True,
    metavar="NS/ACCOUNT[:SERVICE,...]",
    help="A service account that it may use; serves the service of the same name, or those listed.",
)


@click.group()
def host() -> None:
    """Hosts that have joined, and the service accounts they may use."""


def _path(name: str) -> str:
    return f"/v1/hosts/{quote(name, safe='')}"


def _members(state: State) -> list[dict[str, Any]]:
    keys = ("host", "connected", "seen", "joined", "entitlements")
    hosts = state.api.get("/v1/status").get("hosts", [])
    return [{key: one.get(key) for key in keys} for one in hosts]


def _row(member: Mapping[str, Any], now: float) -> tuple[str | Cell, ...]:
    away = f"away for {age(now - seconds_of(member['seen']))}" if member["seen"] else "never seen"
    return (
        str(member["host"]),
        Cell("connected", "ok") if member["connected"] else Cell(away, "bad"),
        when(member["joined"]),
        " ".join(member["entitlements"] or ()) or "-",
    )


@host.command("list")
@format_option
@pass_state
def list_(state: State, output: Format) -> None:
    """Show the hosts, since when they are members, and their accounts."""
    members = _members(state)
    rows = [_row(member, state.now()) for member in members]
    empty = "no host has joined; see `meshctl token create --help`"
    table = Table(("host", "state", "joined", "accounts"), rows, empty=empty)
    emit(output, "HostList", {"items": members}, [table])


@host.command()
@click.argument("name", metavar="HOST")
@accounts_option
@click.option("--exact", is_flag=True, help="These and no others: takes away the rest.")
@format_option
@pass_state
def grant(state: State, name: str, accounts: Sequence[str], exact: bool, output: Format) -> None:
    """Let HOST use more service accounts, at once and without a token.

    With --exact, HOST keeps only what is named. A certificate that it holds for
    an account taken away lives on until it expires, but serves nothing.
    """
    wanted = list(accounts) if exact else [*_held(state, name), *accounts]
    answer = state.api.put(_path(name), {"accounts": wanted})
    if output == "table":
        return click.echo(f"{name} may use {' '.join(answer['accounts'])}")
    return emit(output, "Host", answer, ())


def _held(state: State, name: str) -> list[str]:
    for member in _members(state):
        if member["host"] == name:
            return list(member["entitlements"] or ())
    raise Failure(
        Exit.NOT_FOUND, f"no host {name} has joined", "`meshctl host list` shows those that have"
    )


@host.command()
@click.argument("name", metavar="HOST")
@format_option
@pass_state
def remove(state: State, name: str, output: Format) -> None:
    """End HOST's membership: its calls are refused, it serves nothing any more.

    To come back it needs a new token and an empty stateDir.
    """
    answer = state.api.delete(_path(name))
    if output == "table":
        return click.echo(f"{name} removed")
    return emit(output, "Host", answer, ())
