"""The generated table of fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit.model.docs import main, page


def test_the_page_names_what_runs_and_what_does_not() -> None:
    text = page()
    assert "| `http[].match[].uri.prefix` | runs |" in text
    assert "| `http[].fault.abort.httpStatus` | not yet |" in text
    assert "| EnvoyFilter | networking.istio.io | not supported |" in text
    assert "not yet: PASSTHROUGH" in text
    assert "| `upstreams[].listen` | runs | required;" in text


def test_rows_of_the_tables_are_whole() -> None:
    rows = [line for line in page().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4, 5}


def test_check_compares_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fields.md"
    file.write_text(page())
    assert main(["--check", str(file)]) == 0
    file.write_text(page() + "x")
    assert main(["--check", str(file)]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main(["--wrong"]) == 2
    assert main([]) == 0
    assert capsys.readouterr().out == page()
