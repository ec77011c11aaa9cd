"""Discovery from a folder of files: what the operator wrote is what there is.

The files are the operator's own word, so an instance that a readable file no
longer lists has left, and nothing is held.  Held is what cannot be read: a
file with a mistake counts as it was before the mistake, a folder that is away
as it was before.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from meshd.discovery.base import View
from meshd.discovery.board import Board, Clock
from meshd.discovery.catalog import Catalog
from meshd.discovery.local import HostAddress, local_instances, report_key
from meshd.discovery.static_files import Listed, answers, parse
from meshd.discovery.view import Answer, Key, key_of
from meshkit.model.resources import LocalService
from meshkit.names import ServiceName

POLL = 1.0  # seconds between two looks at the folder
SUFFIXES = (".yaml", ".yml")

Stamp = tuple[int, int, int]
"""Modification time in ns, size in bytes, inode: what changes when a file does."""


@dataclass(frozen=True, slots=True)
class File:
    """One file as last read; ``problem`` "" when ``listed`` is what it says now."""

    stamp: Stamp
    listed: tuple[Listed, ...] = ()
    problem: str = ""


def scan(folder: Path) -> dict[Path, Stamp]:
    """The folder's files.  Raises OSError: the folder cannot be read."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and not path.name.startswith("."):
            state = path.stat()
            found[path] = (state.st_mtime_ns, state.st_size, state.st_ino)
    return found


def load(path: Path, stamp: Stamp, before: File | None) -> File:
    """The file read anew; what it listed before where it cannot be."""
    try:
        listed, problems = parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        listed, problem = (), f"{path}: {error}"
    else:
        problem = str(problems[0]) if problems else ""
    if problem:
        return File(stamp, before.listed if before else (), problem)
    return File(stamp, listed)


def read_folder(folder: Path, before: Mapping[Path, File]) -> dict[Path, File]:
    """Every file, those with the same stamp as before.  Raises OSError as `scan`."""
    files = {}
    for path, stamp in scan(folder).items():
        known = before.get(path)
        same = known is not None and known.stamp == stamp
        files[path] = known if known and same else load(path, stamp, known)
    return files


class StaticDiscovery:
    """`meshd.discovery.base.Discovery` over ``folder``; ``poll`` in seconds.

    Local services are known to this host without a file.  Other hosts learn of
    them from their own files only.
    """

    def __init__(
        self,
        folder: Path,
        host: HostAddress,
        *,
        clock: Clock = time.monotonic,
        poll: float = POLL,
    ) -> None:
        self._folder, self._host, self._poll = folder, host, poll
        self._board = Board(clock=clock)
        self._catalog = Catalog(self._board)
        self._files: dict[Path, File] = {}
        self._local: tuple[LocalService, ...] = ()
        self._ill: set[str] = set()
        self._known: dict[ServiceName, frozenset[Key]] = {}

    async def run(self) -> None:
        while True:
            try:
                files = await trio.to_thread.run_sync(read_folder, self._folder, self._files)
            except OSError as error:
                self._lost(error)
            else:
                if files != self._files or not self._board.view.connected:
                    self._files = files
                    self._apply(connected=True)
            await trio.sleep(self._poll)

    def _lost(self, error: OSError) -> None:
        text = f"{self._folder}: {error.strerror}"
        self._board.keeper.failed_all(text, self._board.clock())
        self._board.publish(connected=False, error=text)

    def _apply(self, connected: bool | None = None) -> None:
        said = answers(self._all())
        known = {service: _keys(answer) for service, answer in said.items()}
        for service, before in self._known.items():
            answer = said.get(service, Answer())
            left = before - known.get(service, frozenset())
            said[service] = replace(answer, left=left)
        self._known = known
        self._catalog.replace(said)
        self._blame()
        broken = [file.problem for file in self._files.values() if file.problem]
        self._board.publish(connected, "; ".join(broken[:3]) if connected else None)

    def _all(self) -> list[Listed]:
        """What the files list, and the local services, whose health is known here."""
        local = [
            Listed(instance, report_key(instance) not in self._ill)
            for instance in local_instances(self._local, self._host)
        ]
        ours = {(each.instance.service, key_of(each.instance)) for each in local}
        listed = [each for file in self._files.values() for each in file.listed]
        others = [e for e in listed if (e.instance.service, key_of(e.instance)) not in ours]
        return [*others, *local]

    def _blame(self) -> None:
        """Services whose file cannot be read are held, with the reason."""
        for file in self._files.values():
            for each in file.listed if file.problem else ():
                service = each.instance.service
                self._board.keeper.failed(service, file.problem, self._board.clock())

    async def register(self, services: Sequence[LocalService]) -> None:
        self._local = tuple(services)
        self._apply()
        await trio.lowlevel.checkpoint()

    def report_health(self, instance: str, healthy: bool) -> None:
        if healthy:
            self._ill.discard(instance)
        else:
            self._ill.add(instance)
        self._apply()

    def watch(self, services: Collection[ServiceName] | None) -> None:
        self._catalog.want(services)

    def view(self) -> View:
        return self._board.view

    async def changed(self) -> None:
        await self._board.changed()


def _keys(answer: Answer) -> frozenset[Key]:
    return frozenset(key_of(instance) for instance in answer.healthy) | answer.failing
