from __future__ import annotations

from pathlib import Path

import pytest

from meshctl.errors import Failure
from meshctl.exits import Exit, as_markdown

DOCS = Path(__file__).parents[2] / "docs"


def test_the_documented_table_is_the_code() -> None:
    assert as_markdown() in (DOCS / "meshctl.md").read_text(encoding="utf-8")


def test_numbers_that_scripts_rely_on() -> None:
    assert {code.name: code.value for code in Exit} == {
        "OK": 0,
        "CHECK_FAILED": 1,
        "USAGE": 2,
        "BAD_FILES": 3,
        "NO_CONTEXT": 4,
        "UNREACHABLE": 5,
        "REFUSED": 6,
        "NOT_FOUND": 7,
        "NOT_LIVE": 8,
        "INTERRUPTED": 130,
    }


def test_a_failure_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    Failure(Exit.REFUSED, "no", "say please", ["f.yaml:1:1: error: x"]).show()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "f.yaml:1:1: error: x\nmeshctl: no\n  next: say please\n"
