from __future__ import annotations

from pathlib import Path

import pytest

from meshctl.tree import main, tree

GOLDEN = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_command_tree_is_the_documented_one() -> None:
    assert GOLDEN.read_text(encoding="utf-8") == tree()


def test_check_says_when_it_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(GOLDEN)]) == 0
    (tmp_path / "old.md").write_text("old")
    assert main(["--check", str(tmp_path / "old.md")]) == 1
    assert main(["--check", str(tmp_path / "missing.md")]) == 1
    assert "run: make docs" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["apply", "check", "proxy config", "token create", "demo"])
def test_every_command_of_the_contract_is_there(command: str) -> None:
    assert f"## meshctl {command}" in tree()
