"""``meshctl proxy config``: what a host's workers run, asked of the host itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from meshctl.output import Format, Table, emit, format_option
from meshctl.state import State, pass_state

WHAT = ("routes", "clusters", "endpoints", "listeners", "addresses", "certs")


@click.group()
def proxy() -> None:
    """Look into the proxies of a host."""


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(_cell, value)) or "-"
    return "-" if value in (None, "") else str(value)


def rows_table(what: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Columns are the rows' own fields, in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    return Table(columns, cells, what.capitalize(), f"the host has no {what}")


@proxy.command()
@click.argument("host")
@click.argument("what", type=click.Choice(WHAT), default="routes")
@format_option
@pass_state
def config(state: State, host: str, what: str, output: Format) -> None:
    """Show a HOST's routes (default), clusters, endpoints, listeners, addresses or certs.

    Addresses are those of captured connections: which service each is for.
    """
    answer = state.api.get(f"/v1/hosts/{host}/config", {"what": what})
    rows = answer.get(what, [])
    emit(
        output, "ProxyConfig", {"host": host, "what": what, "items": rows}, [rows_table(what, rows)]
    )
