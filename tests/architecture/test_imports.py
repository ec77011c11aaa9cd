"""The import rule of ARCHITECTURE.md, as a test: who may import whom, and what a worker loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("meshkit", "meshd", "gateway", "ca", "meshctl")

FORBIDDEN = {
    "meshkit": (
        "meshd",
        "gateway",
        "ca",
        "meshctl",
        "trio",
        "httpx",
        "h11",
        "consul",
        "click",
        "socket",
        "asyncio",
        "threading",
        "time",
        "random",
        "secrets",
        "select",
    ),
    "ca": ("meshd", "gateway", "meshctl"),
    "meshd": ("gateway", "meshctl"),
    "meshd/worker": (
        "meshd.agent",
        "meshd.discovery",
        "yaml",
        "trio",
        "click",
        "consul",
        "httpx",
        "h11",
        "rich",
        "ca",
        "pydantic",
        "prometheus_client",
    ),
    "gateway": ("meshctl",),
}
"""Package (or folder) → modules that no file in it may name."""

ALLOWED = {"random", "random.Random", "time", "time.gmtime", "time.strftime"}
"""Of those, what neither draws a number nor asks a clock: a type, and formatting."""

ONLY_IN = {
    "yaml": ("meshkit/model/",),
    "cryptography": ("meshkit/identity/", "meshkit/authz/", "ca/", "gateway/"),
    "consul": ("meshd/discovery/",),
    "systemd": (),
}
"""Third-party module → the only folders that may import it."""

NOT_IN_A_WORKER = (
    "yaml",
    "trio",
    "click",
    "consul",
    "httpx",
    "h11",
    "rich",
    "anyio",
    "requests",
    "meshd.agent",
    "meshd.discovery",
    "ca",
    "gateway",
    "meshctl",
    "prometheus_client",
)


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file names, with its line; also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, f"{alias.name}.*") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_layers(folder: str) -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files(folder)
        for line, module in imports(path)
        if any(within(module, other) for other in FORBIDDEN[folder]) and module not in ALLOWED
    ]
    assert not broken


@pytest.mark.parametrize("module", ONLY_IN)
def test_heavy_libraries_stay_in_their_folder(module: str) -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for folder in OURS
        for path in files(folder)
        if not str(path.relative_to(ROOT)).startswith(ONLY_IN[module])
        for line, name in imports(path)
        if within(name, module)
    ]
    assert not broken


def test_a_worker_loads_nothing_of_the_control_plane() -> None:
    script = (
        "import sys, meshd.worker.__main__\n"
        f"print([m for m in {NOT_IN_A_WORKER!r} if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", ["systemd", "ansible", "kubernetes"])
def test_no_folder_shadows_an_installed_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()
