"""``meshd``: run the agent of this host, check its configuration.

Exit status: 0 well, 1 it failed while running, 2 wrong usage, 3 the
configuration is wrong, 4 another agent runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from meshd.config import DEFAULT_PATHS, AgentConfig, ConfigError, Role, load_config
from meshd.services import HostServices, load_folder
from meshkit import __version__

FAILED, CONFIG, LOCKED = 1, 3, 4

EdgeFactory = Callable[[], Any]


def make_cli(role: Role, name: str, about: str, edge: EdgeFactory | None = None) -> click.Group:
    """The command tree, which `meshd` and `mesh-gateway` share."""

    @click.group(name=name, help=about)
    def group() -> None:
        pass

    config_option = click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=DEFAULT_PATHS[role],
        show_default=True,
        help="The configuration file.",
    )

    @group.command()
    @config_option
    @click.option(
        "--own-workers",
        is_flag=True,
        help="Workers end with this process instead of waiting to be adopted by the next.",
    )
    def run(config_path: Path, own_workers: bool) -> None:
        """Run until SIGTERM; SIGHUP reads the configuration again."""
        config = _load(config_path, role)
        sys.exit(_run(config, own_workers, edge))

    @group.command()
    @config_option
    def check(config_path: Path) -> None:
        """Say what is wrong with the configuration and the declared services."""
        config = _load(config_path, role)
        services = _services(config)
        for warning in services.warnings:
            click.echo(str(warning), err=True)
        click.echo(f"{config_path}: valid; {_count(config, services)}")

    @group.command()
    def version() -> None:
        """Print the version."""
        click.echo(f"{name} {__version__}")

    return group


def _count(config: AgentConfig, services: HostServices) -> str:
    if config.services is None:
        return "no services of its own"
    return f"{len(services.services)} local services in {config.services}"


def _load(path: Path, role: Role) -> AgentConfig:
    try:
        return load_config(path, role)
    except ConfigError as error:
        sys.exit(_refuse(error))


def _services(config: AgentConfig) -> HostServices:
    try:
        return load_folder(config)
    except ConfigError as error:
        sys.exit(_refuse(error))


def _refuse(error: ConfigError) -> int:
    """Print every problem; returns the exit status."""
    for problem in error.problems:
        click.echo(str(problem), err=True)
    return CONFIG


def _run(config: AgentConfig, own_workers: bool, edge: EdgeFactory | None) -> int:
    # Imported here: `check` and `version` need neither trio nor TLS.
    import trio

    from meshd.agent.connect import Connections
    from meshd.agent.lock import Locked
    from meshd.agent.remedies import cannot_run
    from meshd.agent.run import run_agent

    async def main() -> None:
        made = edge() if edge is not None else None
        await run_agent(config, Connections, own_workers=own_workers, edge=made)

    try:
        trio.run(main)
    except ConfigError as error:
        return _refuse(error)
    except Locked as error:
        return _end(config, str(error), LOCKED)
    except OSError as error:
        return _end(config, cannot_run(config, error), FAILED)
    return 0


def _end(config: AgentConfig, why: str, status: int) -> int:
    click.echo(f"{config.role}: {why}", err=True)
    return status


main = make_cli("meshd", "meshd", "The agent of one host of the mesh.")
