"""``mesh-ca``: the certificate authority and policy server.

Exit status: 0 done or stopped by a signal, 2 wrong usage or settings, 3 the state
directory cannot be used, 4 cannot listen.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import trio

import meshkit
from ca.authority import Authority, AuthorityError, Issued, is_initialised, open_authority
from ca.contexts import write_operator
from ca.log import Log
from ca.plane import open_plane, record_of
from ca.server import Server, open_listeners
from ca.settings import Settings, SettingsError, change, load_settings
from ca.store.sqlite import SqliteStore
from meshkit.identity import spiffe

USAGE, STATE, LISTEN = 2, 3, 4


def _fail(status: int, message: str, remedy: str) -> NoReturn:
    click.echo(f"mesh-ca: {message}\n  {remedy}", err=True)
    sys.exit(status)


_PATH: click.Path = click.Path(path_type=Path, readable=False)
"""Whether it can be read is said by us, with what to do."""


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that both commands take."""
    options = (
        click.option("--config", type=_PATH, help="mesh-ca.yaml."),
        click.option("--state-dir", type=_PATH,
                     help="Keys, certificates, policy.  Default: /var/lib/mesh-ca."),
        click.option("--listen", metavar="HOST:PORT", help="Default: 0.0.0.0:15012."),
        click.option("--name", "names", multiple=True,
                     help="A DNS name or address of this server; may be repeated."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _settings(config: Path | None, names: tuple[str, ...], **flags: Any) -> Settings:
    try:
        return change(load_settings(config), {**flags, "names": names or None})
    except SettingsError as error:
        _fail(USAGE, str(error), error.remedy)
    except OSError as error:
        _fail(USAGE, f"cannot read {config}: {error.strerror}", "check --config")


@contextlib.contextmanager
def _state_faults(settings: Settings) -> Iterator[None]:
    """What is wrong with the state directory, as one line and an exit status."""
    try:
        yield
    except AuthorityError as error:
        _fail(STATE, str(error), error.remedy)
    except OSError as error:
        where = error.filename or settings.state_dir
        _fail(STATE, f"{where}: {error.strerror}", "run as its owner, or choose --state-dir")
    except sqlite3.Error as error:
        _fail(STATE, f"{settings.state_dir}/policy.db: {error}", "restore it from a backup")
    except spiffe.SpiffeError as error:
        _fail(USAGE, str(error), "correct the trust domain or the root namespace")


def _make_authority(settings: Settings) -> Authority:
    state, now = settings.state_dir, time.time()
    known = open_authority(state, now).mesh if is_initialised(state) else None
    return open_authority(state, now, settings.mesh(known))


def _open_for(settings: Settings) -> Authority:
    """The authority to serve; its mesh must be the one that the settings name."""
    authority = open_authority(settings.state_dir, time.time())
    return open_authority(settings.state_dir, time.time(), settings.mesh(authority.mesh))


def _make_operator(settings: Settings, authority: Authority, folder: Path, name: str) -> None:
    made = write_operator(folder, authority, name, settings.public_address(), time.time())
    if made is not None:
        trio.run(_record, settings, made)


async def _record(settings: Settings, issued: Issued) -> None:
    store = SqliteStore(settings.state_dir / "policy.db")
    await store.record_certificates([record_of(issued, "")])
    await store.close()


@click.group()
@click.version_option(meshkit.__version__, prog_name="mesh-ca")
def main() -> None:
    """The mesh's certificate authority and policy server.

    Exit status: 0 done, 2 wrong usage or settings, 3 the state directory cannot
    be used, 4 cannot listen.
    """


@main.command()
@_shared
@click.option("--trust-domain", help="Default: cluster.local.")
@click.option("--domain", help="Domain of the mesh's service names.  Default: svc.cluster.local.")
@click.option("--root-namespace", help="Default: istio-system.")
@click.option("--operator", "operator", default="admin", show_default=True,
              help="Name of the first operator, the author of what it applies.")  # fmt: skip
def init(config: Path | None, names: tuple[str, ...], operator: str, **flags: Any) -> None:
    """Make the authority and the first operator's context.

    Running it again changes nothing, except that an operator's certificate past
    half of its life is renewed.
    """
    settings = _settings(config, names, **flags)
    with _state_faults(settings):
        authority = _make_authority(settings)
        folder = settings.state_dir / "operator"
        _make_operator(settings, authority, folder, operator)
    click.echo(f"authority of {authority.mesh.trust_domain} in {settings.state_dir}")
    click.echo(f"root {authority.fingerprint()}")
    click.echo(f"operator's context {folder}")


@main.command("operator")
@_shared
@click.argument("name")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new directory.")
def new_operator(
    config: Path | None, names: tuple[str, ...], name: str, out: Path, **flags: Any
) -> None:
    """Make the context of one more operator, NAME, in a directory to hand over."""
    settings = _settings(config, names, **flags)
    with _state_faults(settings):
        authority = open_authority(settings.state_dir, time.time())
        _make_operator(settings, authority, out, name)
    click.echo(f"context of operator {name} in {out}")


@main.command()
@_shared
@click.option("--leaf-lifetime", metavar="DURATION", help="Of issued certificates.  Default: 24h.")
def serve(config: Path | None, names: tuple[str, ...], **flags: Any) -> None:
    """Serve until SIGTERM or SIGINT.  Logs are JSON lines on standard error."""
    settings = _settings(config, names, **flags)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the authority's keys
    with _state_faults(settings):
        authority = _open_for(settings)
        store = SqliteStore(settings.state_dir / "policy.db")
    try:
        trio.run(_serve, settings, authority, store)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
            raise
        _fail(LISTEN, f"cannot listen on {settings.listen}: {error.strerror}",
              "choose another address with --listen, or stop what has it (ss -ltnp)")  # fmt: skip


async def _serve(settings: Settings, authority: Authority, store: SqliteStore) -> None:
    log = Log()
    plane = await open_plane(authority, store, log)
    plane.leaf_lifetime = settings.leaf_lifetime
    server = Server(plane, settings.state_dir, settings.names)
    host, port = settings.address()
    listeners = await open_listeners(host, port)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, listeners)
            for listener in listeners:
                name = listener.socket.getsockname()
                log.info("listening", message=f"listening on {_shown(name)}", host=name[0],
                         port=name[1], revision=plane.policy.head)  # fmt: skip
            notify("READY=1")
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                break
            notify("STOPPING=1")
            nursery.cancel_scope.cancel()
    await store.close()
    log.info("stopped")


def _shown(name: tuple[Any, ...]) -> str:
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def notify(state: str) -> None:
    """sd_notify(3): one datagram, where systemd asks for it; never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
        try:
            datagram.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return
