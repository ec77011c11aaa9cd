"""``meshctl demo``: a whole mesh on this machine, and a walk through it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--once", is_flag=True, help="End after the walk: status 0, or 1 if a step failed.")
@click.option("--consul", is_flag=True, help="Discover through a Consul dev agent.")
@click.option(
    "--dir",
    "folder",
    default=Path(".demo"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Everything the demo writes is in here; emptied at its next start.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Of the page [default: 8080 or next].")
@click.option(
    "--listen", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Of the page."
)
def demo(once: bool, consul: bool, folder: Path, port: int | None, listen: str) -> None:
    """Run a mesh of three hosts here: no root, no containers.

    An authority, three meshd on loopback addresses, a gateway and Bookinfo; a walk
    through routing, canaries, retries, mTLS and a killed worker; then it stays up
    for you to try things.  Ctrl-C ends it and everything it started.
    """
    # Imported here: httpx, trio and rich would double the start of every other command.
    from meshctl.demo.run import run_demo

    raise SystemExit(run_demo(folder, port, listen, once=once, consul=consul))
