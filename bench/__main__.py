"""``python -m bench``: us and the peers, two hops each; docs/benchmarks.md says how.

Exit status: 0 measured, 1 something failed (a request, a start), 2 wrong usage.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bench import instructions, machine, memory, report
from bench.figures import BASELINE, Result
from bench.measure import LoadError
from bench.peers.mesh import Size
from bench.peers.templates import SERVICES
from bench.processes import LOAD_CPU, PROXY_CPU, BenchError
from bench.protocols import OURS, PEERS, PROTOCOLS, Plan, Protocol, Shape, shapes
from bench.rounds import Bench

LATEST = Path(__file__).parent / "out" / "latest.json"


def _shapes(_: click.Context, __: click.Parameter, value: str | None) -> list[Shape] | None:
    try:
        return None if value is None else shapes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _names(known: Sequence[str], values: Sequence[str]) -> list[str]:
    """Names out of several options, each with several; without repetitions."""
    names = list(dict.fromkeys(name for value in values for name in value.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def _peers(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else _names(list(PEERS), [value])


def _protocols(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[Protocol]:
    names = _names(list(PROTOCOLS), values) if values else list(PROTOCOLS)
    return [PROTOCOLS[name] for name in names]


@click.command(help="Measure the two-hop mTLS path through Baremesh and its peers.")
@click.option("--quick", is_flag=True, help="Few rounds of us and Envoy, within 50 s a protocol.")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    callback=_protocols,
    help=f"Of {', '.join(PROTOCOLS)}; several allowed.  [default: all]",
)
@click.option(
    "--connections",
    "wanted",
    callback=_shapes,
    help="Such as 1,8,32, or with streams 1x1,8x16.  [default: by protocol]",
)
@click.option("--rounds", type=click.IntRange(1), help="[default: by protocol]")
@click.option("--seconds", type=click.IntRange(1), help="Of each load.  [default: by protocol]")
@click.option("--peers", callback=_peers, help="[default: all that can]")
@click.option("--vary", is_flag=True, help="http/1.1: all requests differ, path, query, headers.")
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
    quick: bool,
    protocols: list[Protocol],
    wanted: list[Shape] | None,
    rounds: int | None,
    seconds: int | None,
    peers: list[str] | None,
    vary: bool,
    record_file: Path | None,
    services: int | None,
    rules: int,
) -> None:  # fmt: skip
    jobs = [Job(protocol, quick, wanted, rounds, seconds, peers, vary) for protocol in protocols]
    _greet()
    try:
        if services is not None:
            _memory([Size(), Size(services, rules, endpoints=10)])
        else:
            _speed(jobs, record_file)
    except (BenchError, LoadError) as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)


class Job:
    """One protocol with what the options say about it.  Raises UsageError."""

    def __init__(
        self,
        protocol: Protocol,
        quick: bool,
        wanted: list[Shape] | None,
        rounds: int | None,
        seconds: int | None,
        peers: list[str] | None,
        vary: bool,
    ) -> None:  # fmt: skip
        plan: Plan = protocol.quick if quick else protocol.plan
        self.protocol = protocol
        self.shapes = shapes(plan.shapes) if wanted is None else wanted
        self.rounds = rounds or plan.rounds
        self.seconds = seconds or plan.seconds
        self.vary = vary
        able = (OURS, BASELINE) if quick else protocol.peers
        self.peers = [name for name in peers or able if name in protocol.peers]
        if not self.peers:
            raise click.UsageError(f"{protocol.name} is not measured with {', '.join(peers or ())}")
        if not protocol.multiplexed and any(shape.streams > 1 for shape in self.shapes):
            raise click.UsageError(f"{protocol.name} has no streams: give connections alone")
        if vary and protocol.name != "http/1.1":
            raise click.UsageError("--vary is for --protocol http/1.1")


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


def _speed(jobs: Sequence[Job], record_file: Path | None) -> None:
    described = machine.description()
    click.echo("\n".join(f"{n}: {value}" for n, value in described if n != "interpreter"))
    versions: dict[str, str] = {}
    sections: list[list[Result]] = []
    notes: list[str] = []
    for job in jobs:
        sections += _measure(job, versions)
        if job.protocol.name == "http/1.1" and OURS in job.peers:
            notes.append(instructions.sentence())
            click.echo(f"\n{notes[-1]}")
    report.write_latest([result for results in sections for result in results], LATEST)
    if record_file is not None:
        record_file.write_text(report.record([*described, *versions.items()], sections, notes))


def _measure(job: Job, versions: dict[str, str]) -> list[list[Result]]:
    """All shapes of one protocol; adds what each peer says of its version."""
    sections = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Bench(job.peers, Path(folder), job.protocol.name, job.vary) as bench,
    ):
        for name, peer in bench.peers.items():
            if name not in versions:
                versions[name] = peer.version
                click.echo(f"{name}: {peer.version}")
        for shape in job.shapes:
            sections.append(bench.at(shape, job.rounds, job.seconds, _progress))
            click.echo(report.section(sections[-1]))
    return sections


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
