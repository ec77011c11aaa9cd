"""What is installed is what is written: setup.cfg, requirements, scripts."""

from __future__ import annotations

import configparser
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("meshkit", "meshd", "gateway", "ca", "meshctl")


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def pins(name: str) -> dict[str, str]:
    """Package → version of a requirements file; raises for a line without an exact version."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line[:1] not in "#-"]
    found = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([^\s;]+)", line) for line in lines if line]
    assert all(found), f"{name}: every line pins an exact version"
    return {m[1].lower().replace("_", "-"): m[2] for m in found if m}


def test_every_package_is_listed() -> None:
    listed = set(setup()["options"]["packages"].split())
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert listed == there


def test_every_requirement_is_pinned() -> None:
    wanted = {
        re.split(r"[<>=]", line)[0].lower()
        for line in setup()["options"]["install_requires"].split()
    }
    assert wanted <= set(pins("requirements.txt"))
    assert not set(pins("requirements.txt")) & set(pins("requirements-dev.txt"))


def test_console_scripts_exist() -> None:
    for line in setup()["options.entry_points"]["console_scripts"].strip().splitlines():
        _name, _, target = line.partition(" = ")
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
