"""``meshctl version``."""

from __future__ import annotations

import platform

import click

from meshctl.output import Format, Table, emit, format_option
from meshkit import __version__


@click.command()
@format_option
def version(output: Format) -> None:
    """Show the version of meshctl; needs no server."""
    fields = {"meshctl": __version__, "python": platform.python_version()}
    emit(output, "Version", fields, [Table(("program", "version"), list(fields.items()))])
