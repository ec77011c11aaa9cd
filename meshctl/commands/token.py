"""``meshctl token``: what a new host needs to join."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from meshctl.commands.get import when
from meshctl.commands.host import accounts_option
from meshctl.output import Format, Table, age, emit, format_option
from meshctl.state import State, pass_state
from meshctl.view import seconds_of

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """``90s``, ``10m``, ``1h`` or seconds; the value is seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d{1,9})([smhd]?)", value)
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is no duration; write 90s, 10m or 1h", param, ctx)
        return float(int(match[1]) * _UNITS[match[2] or "s"])


@click.group()
def token() -> None:
    """Join tokens: one host, once, for named service accounts."""


@token.command()
@click.option("--host", required=True, help="The name that the host will have in the mesh.")
@accounts_option
@click.option("--ttl", type=Duration(), default="10m", show_default=True)
@format_option
@pass_state
def create(state: State, host: str, accounts: Sequence[str], ttl: float, output: Format) -> None:
    """Make a token and print it.

    Alone on standard output, so that a playbook can capture it.  Put it into the
    host's controlPlane.tokenFile (mode 0600).
    """
    body = {"host": host, "accounts": list(accounts), "ttl": ttl}
    answer = state.api.post("/v1/tokens", body)
    if output == "table":
        click.echo(answer["token"])
        click.echo(f"valid once, for host {host}, for {age(ttl)}", err=True)
        return
    emit(output, "Token", {"host": host, "accounts": list(accounts), **answer}, ())


@token.command("list")
@format_option
@pass_state
def list_(state: State, output: Format) -> None:
    """Show tokens that have not been used yet (never their text)."""
    tokens = state.api.get("/v1/tokens").get("tokens", [])
    rows = [
        (
            t["host"],
            " ".join(t.get("accounts", ())),
            when(t.get("expires")),
            age(seconds_of(t.get("expires")) - state.now()),
        )
        for t in tokens
    ]
    table = Table(("host", "accounts", "expires", "left"), rows, empty="no token is outstanding")
    emit(output, "TokenList", {"items": tokens}, [table])
