from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from meshctl.demo.places import MARKER, claim_block, claim_folder, free_port
from meshctl.errors import Failure


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for Unix sockets in it."""
    return tmp_path_factory.mktemp("d")


def test_a_fresh_folder_is_made_and_locked(short: Path) -> None:
    folder = short / "demo"
    held = claim_folder(folder)
    try:
        with pytest.raises(Failure, match="another demo runs"):
            claim_folder(folder)
    finally:
        os.close(held)
    os.close(claim_folder(folder))


def test_an_earlier_demos_folder_is_emptied(short: Path) -> None:
    os.close(claim_folder(short / "demo"))
    (short / "demo" / "a").mkdir()
    (short / "demo" / "a" / "token").write_text("x")
    (short / "demo" / "link").symlink_to(short)
    os.close(claim_folder(short / "demo"))
    assert [p.name for p in (short / "demo").iterdir()] == [MARKER]
    assert short.exists()


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(Failure, match="no demo made it"):
        claim_folder(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="too long"):
        claim_folder(tmp_path / ("x" * 100))


def test_two_demos_get_two_blocks() -> None:
    first = claim_block(lambda number: [])
    second = claim_block(lambda number: [])
    try:
        assert first.number != second.number
    finally:
        first.claim.close()
        second.claim.close()


def test_a_taken_address_moves_the_demo_on() -> None:
    taken = claim_block(lambda number: [])
    taken.claim.close()
    with socket.create_server((taken.address(1), 15443)):
        other = claim_block(lambda number: [(f"127.0.{number}.1", 15443)])
        other.claim.close()
        assert other.number != taken.number


def test_the_first_free_port_is_taken() -> None:
    with socket.create_server(("127.0.77.1", 0)) as held:
        port = held.getsockname()[1]
        assert free_port("127.0.77.1", range(port, port + 2)) == port + 1
        with pytest.raises(Failure, match=f"port {port} cannot be used on 127.0.77.1"):
            free_port("127.0.77.1", range(port, port + 1))
