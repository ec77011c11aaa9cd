from __future__ import annotations

import io
import math
from collections.abc import Iterator

import pytest
from rich.console import Console

from meshctl.demo.screen import Screen, Verdict, cells
from meshctl.demo.traffic import Edge, Flow


def clock() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.5


def screen(terminal: bool = False) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    ticks = clock()
    console = Console(file=out, force_terminal=terminal, width=60, highlight=False)
    return Screen(console, lambda: next(ticks)), out


def test_a_pipe_gets_one_plain_line_a_step() -> None:
    shown, out = screen()
    with shown.step("A canary") as step:
        step.say("500 of 1,000")
        step.end(Verdict(True, "v1 897, v3 103 " + "x" * 60))
    assert out.getvalue() == f"  1.5 s ✓ A canary: v1 897, v3 103 {'x' * 60}\n"
    assert shown.failed == 0


def test_a_failed_step_says_what_was_expected_and_counts() -> None:
    shown, out = screen()
    with shown.step("A canary") as step:
        step.end(Verdict(False, "[v1] 700", "870 to 930"))
    assert "✗ A canary: [v1] 700\n          expected: 870 to 930\n" in out.getvalue()
    assert shown.failed == 1


def test_a_terminal_keeps_the_verdict() -> None:
    shown, out = screen(terminal=True)
    with shown.step("A canary") as step:
        step.say("[half]")
        step.end(Verdict(True, "done"))
    assert "done" in out.getvalue()


@pytest.mark.parametrize(("mutual", "text"), [(1.0, "yes"), (0.0, "no"), (0.5, "50%")])
def test_a_row_of_the_table(mutual: float, text: str) -> None:
    flow = Flow(Edge("a", "b v1", "h"), 12.34, 0.999, 1.0, math.nan, mutual)
    assert cells(flow) == ("a", "b v1", "h", "12.3", "99.9%", "1.0", "-", text)
