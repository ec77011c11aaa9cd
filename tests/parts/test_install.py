from __future__ import annotations

import os
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
