from __future__ import annotations

from meshd.discovery.board import Board
from meshd.discovery.faults import Faults


def test_a_backend_is_not_connected_before_everything_was_answered_once() -> None:
    board = Board()
    faults = Faults(board, "Consul")
    faults.wait()
    faults.mended("the catalog")
    assert (board.view.connected, board.view.error) == (
        False, "Consul: not every service is answered yet",
    )  # fmt: skip
    faults.settled()
    assert (board.view.connected, board.view.error) == (True, "")


def test_a_fault_is_told_rather_than_the_waiting() -> None:
    board = Board()
    faults = Faults(board, "Consul")
    faults.wait()
    faults.failed("reviews", "no leader")
    faults.settled()
    assert (board.view.connected, board.view.error) == (False, "Consul: reviews: no leader")
