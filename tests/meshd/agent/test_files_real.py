from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from meshd.agent import secrets
from meshd.agent.files import private_folder, read_json, write_atomic, write_json


def test_files_are_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key.pem"]


def test_a_failed_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_json_comes_back_and_a_broken_file_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": [1]})
    assert read_json(path) == {"a": [1]}
    path.write_bytes(b'{"a": [1')
    assert read_json(path) is None


def test_an_open_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700
    assert stat.S_IMODE(private_folder(tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_sealed_memory_file_is_read_by_its_descriptor_and_cannot_change() -> None:
    descriptor = secrets.sealed("key", b"secret")
    try:
        assert Path(f"/proc/self/fd/{descriptor}").read_bytes() == b"secret"
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == secrets.SEALS
        with pytest.raises(PermissionError):
            os.write(descriptor, b"other")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
