"""Where the programs that tests and bench start are found."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / ".parts"
UNPACKED_CONSUL = PARTS / "consul" / "usr" / "bin" / "consul"

# A user's PATH often lacks these, and nginx, haproxy, nft and ip live there.
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def program(name: str) -> str | None:
    """The path of a program on PATH or in the system's folders; None if there is none."""
    folders = [os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS]
    return shutil.which(name, path=os.pathsep.join(folders))


def installed_consul() -> str | None:
    """A `consul` on PATH wins over the one unpacked into .parts; None if there is neither."""
    if UNPACKED_CONSUL.is_file():
        return program("consul") or str(UNPACKED_CONSUL)
    return program("consul")


def consul_binary() -> str:
    """The `consul` to start.

    Raises:
        FileNotFoundError: there is none; says what to run.
    """
    found = installed_consul()
    if found is None:
        raise FileNotFoundError("no consul: run 'python3 tests/parts/install.py'")
    return found
