"""Results as tables, for a terminal and for docs, and as latest.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.figures import BASELINE, Result, over, ratio
from bench.protocols import PROTOCOLS

Table = list[list[str]]
"""Cells; the first row is the head, the first column is text, the others are figures."""


def measured(results: Sequence[Result]) -> Table:
    """Median (smallest–largest) over the rounds, and memory."""
    columns = PROTOCOLS[results[0].protocol].columns
    table = [["peer", *(column.title for column in columns), "PSS MB/hop"]]
    for result in results:
        spreads = (over(result.samples, c.quantity).text(c.digits) for c in columns)
        table.append([result.peer, *spreads, f"{result.pss_mb:.1f}"])
    return table


def ratios(results: Sequence[Result]) -> Table:
    """Of each peer to the baseline, taken round by round; only the head without baseline."""
    columns = PROTOCOLS[results[0].protocol].ratios
    table = [[f"ratio to {BASELINE}", *(column.title for column in columns)]]
    baseline = next((result for result in results if result.peer == BASELINE), None)
    for result in results:
        if baseline is None or result is baseline:
            continue
        found = [ratio(result.samples, baseline.samples, c.quantity) for c in columns]
        table.append([result.peer, *(s.text(2) if s is not None else "-" for s in found)])
    return table


def agents(results: Iterable[Result]) -> list[str]:
    """A sentence for each peer whose figures hold agents' work."""
    return [
        f"of {result.peer}'s figures, the agents: {over(result.samples, 'agents_us').text(2)} µs "
        f"and {result.agents_pss_mb:.1f} MB a hop"
        for result in results
        if result.agents_pss_mb
    ]


def title(results: Sequence[Result]) -> str:
    """``32 connections, http/1.1, 6 rounds``, or ``8 connections with 16 streams each, h2, …``."""
    first = results[0]
    connections = _counted(first.connections, "connection")
    if first.streams > 1:
        connections += f" with {first.streams} streams each"
    return f"{connections}, {first.protocol}, {_counted(len(first.samples), 'round')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def text(table: Table) -> str:
    """In columns; one row a line."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def markdown(table: Table, rule: str = "---:") -> str:
    """`rule` aligns every column but the first."""
    head, *rows = table
    rules = ["---", *(rule for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rules, *rows))


def section(results: Sequence[Result]) -> str:
    """One number of connections, for a terminal."""
    tables = [text(table) for table in (measured(results), ratios(results)) if len(table) > 1]
    return "\n\n".join(["", title(results), *tables, *agents(results)])


def record(
    described: Sequence[tuple[str, str]],
    sections: Iterable[Sequence[Result]],
    notes: Iterable[str] = (),
) -> str:
    """A whole run as Markdown, the machine first, what else was found last."""
    about = [[name, value] for name, value in described]
    parts = [markdown([["what", "which"], *about], "---")]
    for results in sections:
        parts.append(f"### {title(results)}")
        parts += [markdown(t) for t in (measured(results), ratios(results)) if len(t) > 1]
        parts += [f"Of {line.removeprefix('of ')}." for line in agents(results)]
    parts += [f"{note[0].upper()}{note[1:]}." for note in notes]
    return "\n\n".join(parts) + "\n"


def write_latest(results: Iterable[Result], file: Path) -> None:
    """The rows that tools read, over what an earlier run left."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [result.row() for result in results]
    file.write_text(json.dumps(rows, indent=1) + "\n")
