from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from meshd.agent.client import NoToken, read_token
from meshd.agent.remedies import cannot_bind, cannot_run
from meshd.config import parse_config

CONFIG = parse_config(
    "address: 10.0.0.5\ncontrolPlane: {address: ca:15012}\n"
    "runtimeDir: /run/meshd\nstateDir: /var/lib/meshd\n",
    "/etc/meshd/meshd.yaml",
    "meshd",
)
TOKEN = "bm1.abcdefgh234." + "0f" * 32


def fault(number: int, file: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), file)


@pytest.mark.parametrize(
    ("number", "port", "remedy"),
    [
        (errno.EADDRINUSE, 15001, "`ss -ltnp`"),
        (errno.EADDRNOTAVAIL, 15443, "does not have that address"),
        (errno.EACCES, 80, "CAP_NET_BIND_SERVICE"),
    ],
)
def test_a_port_that_cannot_be_bound_says_what_to_do(number: int, port: int, remedy: str) -> None:
    said = cannot_bind("10.0.0.5", port, fault(number))
    assert said.startswith(f"10.0.0.5:{port}: {os.strerror(number)}; ") and remedy in said
    assert cannot_bind("::1", 1, fault(errno.ENOMEM)) == f"[::1]:1: {os.strerror(errno.ENOMEM)}"


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("/run/meshd", "set runtimeDir"),
        ("/run", "set runtimeDir"),
        ("/var/lib/meshd/identity", "set stateDir"),
        ("/etc/elsewhere", "make it writable"),
    ],
)
def test_a_folder_without_rights_names_its_setting(file: str, remedy: str) -> None:
    said = cannot_run(CONFIG, fault(errno.EACCES, file))
    assert said.startswith(f"{file}: Permission denied; run as root, or ") and remedy in said


def test_root_does_not_help_where_nobody_may_write() -> None:
    said = cannot_run(CONFIG, fault(errno.EROFS, "/var/lib/meshd"))
    assert "set stateDir" in said and "root" not in said


def test_other_errors_are_said_as_they_are() -> None:
    assert cannot_run(CONFIG, fault(errno.ENOSPC, "/run/meshd/x")).endswith("left on device")
    assert cannot_run(CONFIG, OSError("metrics: taken")) == "metrics: taken"


@pytest.mark.parametrize("text", ["garbage", "", TOKEN[:-1], f"{TOKEN}\nvalid once"])
def test_a_file_without_a_token_is_told_before_anything_is_sent(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(NoToken, match="meshctl token create --host vm1"):
        read_token(tmp_path / "token", "vm1")


def test_a_token_is_read_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token", "vm1") == TOKEN
