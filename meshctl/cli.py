"""The command line: every command, and how the program ends.

Standard output is the result and nothing else; what is said beside it goes to
standard error.  Exit statuses are `meshctl.exits`.
"""

from __future__ import annotations

import click

from meshctl.commands.apply import apply, delete
from meshctl.commands.check import check
from meshctl.commands.demo import demo
from meshctl.commands.get import get, history
from meshctl.commands.host import host
from meshctl.commands.proxy import proxy
from meshctl.commands.status import status
from meshctl.commands.token import token
from meshctl.commands.version import version
from meshctl.exits import Exit
from meshctl.state import State
from meshkit import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="meshctl")
@click.option(
    "--context",
    "context_dir",
    metavar="DIR",
    help="The operator's directory [default: $MESHCTL_CONTEXT, ~/.config/baremesh, "
    "/var/lib/mesh-ca/operator].",
)
@click.pass_context
def cli(ctx: click.Context, context_dir: str | None) -> None:
    """Operate a Baremesh service mesh."""
    state = ctx.ensure_object(State)
    state.context_dir = context_dir


for command in (apply, get, delete, history, status, check, host, token, proxy, demo, version):
    cli.add_command(command)


def main() -> None:
    """Entry point of the console script."""
    try:
        cli.main(standalone_mode=False)
    except click.Abort:
        click.echo("meshctl: interrupted", err=True)
        raise SystemExit(int(Exit.INTERRUPTED)) from None
    except click.ClickException as fault:
        fault.show()
        raise SystemExit(fault.exit_code) from None
