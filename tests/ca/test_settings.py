from __future__ import annotations

from pathlib import Path

import pytest

from ca.settings import Settings, SettingsError, change, load_settings, parse_address
from meshkit.names import MeshSettings


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "mesh-ca.yaml"
    path.write_text(text)
    return load_settings(path)


def test_the_whole_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "stateDir: /s\nlisten: 0.0.0.0:15012\nnames: [ca.example.org]\ntrustDomain: td\n"
        "domain: mesh.local\nrootNamespace: root\nleafLifetime: 90s\n",
    )
    assert settings == Settings(
        Path("/s"), "0.0.0.0:15012", ("ca.example.org",), "td", "mesh.local", "root", 90.0
    )
    assert settings.public_address() == "ca.example.org:15012"
    assert settings.mesh() == MeshSettings("td", "mesh.local", "root")


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Settings() == load_settings(None)
    assert Settings().public_address() == "127.0.0.1:15012"
    assert Settings().mesh(MeshSettings("td")) == MeshSettings("td")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("listn: 1", "did you mean listen"),
        ("whatever: 1", "known: stateDir"),
        ("- a", "not a map"),
        ("a: [", "not valid YAML"),
        ("listen: 15012", "listen"),
        ("listen: 'host:99999'", "no address"),
        ("names: ca.example.org", "a list"),
        ("trustDomain: Not/Valid", "trust domain"),
        ("leafLifetime: 30s", "between 1m and 90d"),
        ("leafLifetime: 1y", "no duration"),
        ("leafLifetime: true", "leafLifetime: True is not"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, text)
    assert word in f"{error.value} {error.value.remedy}" and error.value.remedy


def test_flags_win_and_absent_ones_do_not() -> None:
    settings = change(Settings(listen="a:1"), {"listen": None, "leaf_lifetime": "2m"})
    assert (settings.listen, settings.leaf_lifetime) == ("a:1", 120.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:2", ("::1", 2)), (":3", ("", 3)), ("ca:0", ("ca", 0))],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "ca", "ca:", "::1:2", "ca:65536", "ca:1x", "[zz]:1"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_address(text)
