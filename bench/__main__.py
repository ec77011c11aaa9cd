"""``python -m bench``: us and the peers, two hops each; docs/benchmarks.md says how.

Exit status: 0 measured, 1 something failed (a request, a start), 2 wrong usage.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bench import machine, memory, report
from bench.figures import BASELINE, Result
from bench.measure import LoadError
from bench.peers.mesh import Size
from bench.peers.templates import SERVICES
from bench.processes import LOAD_CPU, PROXY_CPU, BenchError
from bench.rounds import PEERS, Bench

LATEST = Path(__file__).parent / "out" / "latest.json"
PROTOCOLS = ("http/1.1",)
CONNECTIONS = "1,8,32,128"
ROUNDS, SECONDS = 6, 3
QUICK = {"connections": "32", "peers": f"baremesh,{BASELINE}", "seconds": 2}
"""Other defaults of the same options; what is given by hand still counts."""


def _quick(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.default_map = QUICK


def _counts(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    parts = value.split(",")
    if not all(part.isdigit() and 0 < int(part) <= 512 for part in parts):
        raise click.BadParameter(f"{value!r}: give numbers from 1 to 512, such as {CONNECTIONS}")
    return [int(part) for part in parts]


def _peers(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    names = list(dict.fromkeys(value.split(",")))
    if unknown := [name for name in names if name not in PEERS]:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return names


def _protocol(_: click.Context, __: click.Parameter, value: str) -> str:
    if value not in PROTOCOLS:
        raise click.BadParameter(f"{value!r} is not measured; measured: {', '.join(PROTOCOLS)}")
    return value


@click.command(help="Measure the two-hop mTLS path through Baremesh and its peers.")
@click.option(
    "--quick",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_quick,
    help="Only us and Envoy at 32 connections, within 50 s.",
)
@click.option("--connections", callback=_counts, default=CONNECTIONS, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
@click.option(
    "--seconds", type=click.IntRange(1), default=SECONDS, show_default=True, help="Of each load."
)
@click.option("--peers", callback=_peers, default=",".join(PEERS), show_default=True)
@click.option("--protocol", callback=_protocol, default=PROTOCOLS[0], show_default=True)
@click.option("--vary", is_flag=True, help="Requests that all differ, in path, query and headers.")
@click.option(
    "--record",
    "record_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the tables and the machine's description there, as Markdown.",
)
@click.option(
    "--services",
    type=click.IntRange(1, 20_000),
    help=f"Instead: memory with {SERVICES} and with so many services.",
)
@click.option(
    "--rules",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Of each service, with --services.",
)
def main(
    connections: list[int],
    rounds: int,
    seconds: int,
    peers: list[str],
    protocol: str,
    vary: bool,
    record_file: Path | None,
    services: int | None,
    rules: int,
) -> None:  # fmt: skip
    _greet()
    try:
        if services is not None:
            _memory([Size(), Size(services, rules, endpoints=10)])
        else:
            _speed(peers, connections, rounds, seconds, vary, record_file)
    except (BenchError, LoadError) as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)


def _greet() -> None:
    click.echo(f"interpreter: {machine.interpreter()}")
    if not machine.optimized():
        click.echo(
            "warning: this Python was built without --enable-optimizations and costs about 30 % "
            "more CPU than what hosts run; choose another with BENCH_PYTHON=/usr/bin/python3",
            err=True,
        )
    if LOAD_CPU == PROXY_CPU:
        raise click.UsageError("two processors are needed: proxies and load are kept apart")
    click.echo(f"load generator and application on CPU {LOAD_CPU}, proxies on CPU {PROXY_CPU}")


def _speed(
    names: Sequence[str],
    connections: Sequence[int],
    rounds: int,
    seconds: int,
    vary: bool,
    record_file: Path | None,
) -> None:
    sections: list[list[Result]] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Bench(names, Path(folder), vary) as bench,
    ):
        described = machine.description(bench.peers.values())
        click.echo("\n".join(f"{n}: {value}" for n, value in described if n != "interpreter"))
        for count in connections:
            sections.append(bench.at(count, rounds, seconds, _progress))
            click.echo(report.section(sections[-1]))
    report.write_latest([result for results in sections for result in results], LATEST)
    if record_file is not None:
        record_file.write_text(report.record(described, sections))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(text, err=True)


def _memory(sizes: Sequence[Size]) -> None:
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for index, size in enumerate(sizes):
            found.append(memory.footprint(size, Path(folder) / str(index)))
    click.echo(report.text(memory.table(found)))


if __name__ == "__main__":
    main()
