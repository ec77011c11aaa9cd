from __future__ import annotations

import pytest

from tests.parts import sources
from tests.parts.install import codename

DEB822 = """\
Types: deb deb-src
# a comment that names another archive
URIs: http://mirror.example/snapshot/20250520T000000Z
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
"""


def test_a_deb822_stanza_keeps_mirror_and_keyring() -> None:
    assert sources.from_deb822(DEB822, "bookworm", "bullseye") == (
        "Types: deb\n"
        "URIs: http://mirror.example/snapshot/20250520T000000Z\n"
        "Suites: bullseye\n"
        "Components: main contrib\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def test_a_signed_by_key_inside_the_stanza_is_kept() -> None:
    key = "Signed-By:\n -----BEGIN\n .\n"
    text = f"Types: deb\nURIs: http://m\nSuites: bookworm\nComponents: main\n{key}"
    assert sources.from_deb822(text, "bookworm", "bullseye").endswith(key)


@pytest.mark.parametrize("line", ["Enabled: no", "Types: deb-src"])
def test_a_stanza_that_gives_no_packages_is_passed_over(line: str) -> None:
    types = "" if line.startswith("Types") else "Types: deb\n"
    text = f"{types}{line}\nURIs: http://m\nSuites: bookworm\nComponents: main\n"
    assert sources.from_deb822(text, "bookworm", "bullseye") == ""


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        ("deb http://m/debian bookworm main", "deb http://m/debian bullseye main\n"),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m/debian stable main contrib",
            "deb [arch=amd64 signed-by=/k.gpg] http://m/debian bullseye main contrib\n",
        ),
        ("deb http://m/debian bookworm-updates main", ""),
        ("deb-src http://m/debian bookworm main", ""),
        ("# deb http://m/debian bookworm main", ""),
    ],
)
def test_one_line_sources(line: str, copied: str) -> None:
    assert sources.from_lines(line + "\n", "bookworm", "bullseye") == copied


def test_the_first_file_with_the_main_suite_is_copied_in_its_own_format() -> None:
    files = [("tool.list", "deb http://other nodistro main\n"), ("debian.sources", DEB822)]
    found = sources.read(files, "bookworm", "bullseye")
    assert found is not None
    assert found.suffix == ".sources"
    assert "Suites: bullseye" in found.text


def test_a_machine_of_another_system_has_no_source() -> None:
    assert sources.read([("debian.sources", DEB822)], "noble", "bullseye") is None


def test_codename() -> None:
    assert codename('NAME="Debian"\nVERSION_CODENAME=bookworm\n') == "bookworm"
    assert codename("ID=arch\n") == ""
