"""What a person sees of the demo: a spinner and ticks on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from meshctl.demo.traffic import Flow

COLUMNS = ("from", "to", "on host", "req/s", "success", "p50 ms", "p99 ms", "mTLS")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a step ended; ``expected`` and ``remedy`` are said only when it failed."""

    ok: bool
    seen: str
    expected: str = ""
    remedy: str = ""


Say = Callable[[str], None]


class Step(Protocol):
    """Given by `Screen.step`: ``say`` replaces the line of progress."""

    def say(self, text: str) -> None: ...

    def end(self, verdict: Verdict) -> None: ...


def _number(value: float, digits: int) -> str:
    return "-" if value != value else f"{value:.{digits}f}"


def cells(flow: Flow) -> tuple[str, ...]:
    """One row of the table of who talks to whom."""
    return (
        flow.edge.source,
        flow.edge.target,
        flow.edge.host,
        _number(flow.rate, 1),
        f"{flow.success:.1%}",
        _number(flow.p50, 1),
        _number(flow.p99, 1),
        "yes" if flow.mutual == 1 else "no" if flow.mutual == 0 else f"{flow.mutual:.0%}",
    )


def flow_table(flows: Sequence[Flow], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if 2 < number < 7 else "left", header_style="bold")
    for flow in flows:
        style = "" if flow.success == 1 and flow.mutual == 1 else "yellow"
        table.add_row(*cells(flow), style=style)
    return table


class Screen:
    """``console`` decides: a terminal gets a spinner, anything else a line a step."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._start = clock()
        self.failed = 0

    def elapsed(self) -> str:
        return f"{self._clock() - self._start:5.1f} s"

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.print(f"[bold]{escape(text)}[/bold]")

    def note(self, text: str) -> None:
        """A word on why it matters."""
        self.console.print(Text(text, style="dim"), soft_wrap=not self.console.is_terminal)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One line of the story; leaving it without a verdict is the caller's error."""
        if not self.console.is_terminal:
            yield _PlainStep(self, title)
            return
        with self.console.status(escape(title), spinner="dots") as status:
            yield _LiveStep(self, title, status.update)

    def finish(self, title: str, verdict: Verdict) -> None:
        """The line that stays: elapsed time, tick or cross, title, what was seen."""
        self.failed += not verdict.ok
        mark = "[green]✓[/green]" if verdict.ok else "[red bold]✗[/red bold]"
        self.console.print(
            f"[dim]{self.elapsed()}[/dim] {mark} {escape(title)}: {escape(verdict.seen)}",
            soft_wrap=not self.console.is_terminal,
        )
        for label, text in (("expected", verdict.expected), ("next", verdict.remedy)):
            if text and not verdict.ok:
                self.console.print(f"          {label}: {escape(text)}", soft_wrap=True)

    def lines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.console.print(Text(line), soft_wrap=True)


@dataclass
class _PlainStep:
    screen: Screen
    title: str

    def say(self, text: str) -> None:
        """Progress is for terminals."""

    def end(self, verdict: Verdict) -> None:
        self.screen.finish(self.title, verdict)


@dataclass
class _LiveStep:
    screen: Screen
    title: str
    update: Callable[[str], None]

    def say(self, text: str) -> None:
        self.update(f"{escape(self.title)} [dim]{escape(text)}[/dim]")

    def end(self, verdict: Verdict) -> None:
        self.screen.finish(self.title, verdict)
