from __future__ import annotations

from pathlib import Path

import pytest

from meshctl import context
from meshctl.errors import Failure
from meshctl.exits import Exit


def make(folder: Path, settings: str = "address: ca:15012\ntrustDomain: demo.mesh\n") -> Path:
    folder.mkdir(parents=True)
    for name in context.FILES:
        (folder / name).write_text("x")
    (folder / "operator.yaml").write_text(settings)
    return folder


def test_what_was_named_is_the_only_candidate() -> None:
    environ = {"MESHCTL_CONTEXT": "/env"}
    home = Path("/home/ann")
    assert list(context.candidates("/named", environ, home)) == [Path("/named")]
    assert list(context.candidates(None, environ, home)) == [Path("/env")]
    assert list(context.candidates(None, {"MESHCTL_CONTEXT": ""}, home)) == [
        Path("/home/ann/.config/baremesh"),
        Path("/var/lib/mesh-ca/operator"),
    ]


def test_a_context_is_read(tmp_path: Path) -> None:
    operator = context.load(make(tmp_path / "ctx"))
    assert (operator.address, operator.trust_domain) == ("ca:15012", "demo.mesh")
    assert operator.root_namespace == "istio-system"


@pytest.mark.parametrize("settings", ["", "address:\n", "- a\n", "address: a\n---\nb: c\n", "a: ["])
def test_a_context_without_an_address(tmp_path: Path, settings: str) -> None:
    with pytest.raises(Failure) as caught:
        context.load(make(tmp_path / "ctx", settings))
    assert caught.value.exit_code == Exit.NO_CONTEXT
    assert "expected: address: HOST:PORT" in caught.value.remedy


@pytest.mark.parametrize("name", context.FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "ctx")
    (folder / name).unlink()
    with pytest.raises(Failure, match=name) as caught:
        context.load(folder)
    assert "--context DIR" in caught.value.remedy


def test_nowhere_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MESHCTL_CONTEXT", raising=False)
    monkeypatch.setattr(context, "SYSTEM", tmp_path / "none")
    with pytest.raises(Failure, match=r"looked in .*/.config/baremesh, .*/none"):
        context.find(None)


def test_the_home_context_wins_over_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MESHCTL_CONTEXT", raising=False)
    home = make(tmp_path / ".config" / "baremesh")
    assert context.find(None).folder == home


def test_a_certificate_that_is_none_is_said(tmp_path: Path) -> None:
    operator = context.load(make(tmp_path / "ctx"))
    with pytest.raises(Failure, match="no operator's certificate"):
        _ = operator.name
