"""Where a demo lives: one folder, one block of loopback addresses, free ports.

Linux answers on all of 127.0.0.0/8, so each host of the demo has an address of its
own and the daemons keep their usual ports.  A block 127.0.N.0/24 is taken by
binding a port on its .254 for as long as the demo lives, and the folder by a lock
on its marker file: both vanish with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshctl.errors import Failure
from meshctl.exits import Exit

MARKER = "baremesh-demo"
BLOCKS = range(10, 250)
CLAIM_PORT = 15999
PORTS = range(8080, 8180)
"""Where the gateway's port is looked for: the first free one."""

MESH, PROXY, METRICS, CONTROL = 15443, 15001, 15020, 15012
MAX_SOCKET_PATH = 100
"""Bytes: the kernel takes 107 for a Unix socket's path."""


def _bindable(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def free_port(address: str, wanted: range = PORTS) -> int:
    """The first port of ``wanted`` that can be bound.  Raises Failure."""
    for port in wanted:
        if _bindable(address, port):
            return port
    raise Failure(
        Exit.CHECK_FAILED,
        f"{_ports(wanted)} on {address}",
        "end what listens there (`ss -ltnp`), or choose another: --port N",
    )


def _ports(wanted: range) -> str:
    if len(wanted) == 1:
        return f"port {wanted.start} cannot be used"
    return f"no port of {wanted.start}–{wanted.stop - 1} is free"


@dataclass
class Block:
    """``claim`` holds the block; closing it, or dying, gives it back."""

    number: int
    claim: socket.socket

    def address(self, last: int) -> str:
        return f"127.0.{self.number}.{last}"


def _claim(number: int) -> socket.socket | None:
    claim = socket.socket()
    try:
        claim.bind((f"127.0.{number}.254", CLAIM_PORT))
        claim.listen()
    except OSError:
        claim.close()
        return None
    return claim


def claim_block(needed: Callable[[int], list[tuple[str, int]]]) -> Block:
    """The first block that nobody holds and whose ``needed`` addresses are free."""
    for number in BLOCKS:
        claim = _claim(number)
        if claim is None:
            continue
        if all(_bindable(address, port) for address, port in needed(number)):
            return Block(number, claim)
        claim.close()
    raise Failure(
        Exit.CHECK_FAILED,
        f"a program listens on 0.0.0.0 at one of the demo's ports ({MESH}, {PROXY}, …)",
        "end it (`ss -ltnp` names it) and run the demo again",
    )


def _lock(marker: Path) -> int:
    held = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise Failure(
            Exit.CHECK_FAILED,
            f"another demo runs in {marker.parent}",
            "end it, or give this one a folder of its own: --dir /tmp/demo2",
        ) from None
    return held


def _empty(folder: Path) -> None:
    for child in folder.iterdir():
        if child.name == MARKER:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def claim_folder(folder: Path) -> int:
    """Make ``folder`` ours and empty, return the descriptor that holds the lock.

    A folder that has content and is not an earlier demo's is refused: it is
    emptied at every start.
    """
    if len(str(folder)) + len("/gateway/run/worker.sock") > MAX_SOCKET_PATH:
        raise Failure(
            Exit.USAGE,
            f"the path {folder} is too long for the Unix sockets inside",
            "use a shorter one: --dir /tmp/demo",
        )
    marker = folder / MARKER
    if folder.exists() and not marker.exists() and any(folder.iterdir()):
        raise Failure(
            Exit.USAGE,
            f"{folder} is not empty, and no demo made it",
            "name a folder that may be emptied: --dir DIR",
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = _lock(marker)
    _empty(folder)
    return held
