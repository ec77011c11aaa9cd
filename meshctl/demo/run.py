"""The demo from start to end: what is shown when, and what is left running."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn

import trio
from rich.console import Console
from rich.live import Live

from meshctl.demo import files
from meshctl.demo.caller import Caller
from meshctl.demo.layout import EXAMPLES, Layout, needed
from meshctl.demo.mesh import Mesh, tool
from meshctl.demo.places import claim_block, claim_folder, free_port
from meshctl.demo.processes import Processes
from meshctl.demo.screen import COLUMNS, Say, Screen, Verdict, cells, flow_table
from meshctl.demo.story import CHAPTERS, Chapter
from meshctl.demo.traffic import Flow, flows
from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.output import Table, plain_table

LOAD_PER_SECOND = 12
"""The gentle load behind the live table: visible, and a few per cent of a core."""
SAMPLE_SECONDS = 3.0


class _PointlessError(Exception):
    """The mesh did not come up: there is nothing to walk through."""


async def _step(screen: Screen, title: str, run: Callable[[Say], Awaitable[Verdict]]) -> None:
    with screen.step(title) as step:
        try:
            verdict = await run(step.say)
        except Failure as fault:
            verdict = Verdict(False, fault.message, remedy=fault.remedy)
            screen.lines(fault.problems)
        step.end(verdict)


async def _set_up(
    mesh: Mesh, screen: Screen, title: str, work: Callable[[Say], Awaitable[str]]
) -> None:
    """A step without which the rest is pointless: its failure ends the demo."""
    before = screen.failed

    async def run(say: Say) -> Verdict:
        return Verdict(True, await work(say))

    await _step(screen, title, run)
    if screen.failed > before:
        raise _PointlessError


async def _bring_up(mesh: Mesh, screen: Screen) -> None:
    layout = mesh.layout

    async def control(say: Say) -> str:
        if layout.consul:
            say("Consul")
            await mesh.start_consul()
        say("making keys, starting the server")
        await mesh.start_control()
        return f"serving on {layout.control}"

    async def members(say: Say) -> str:
        await mesh.start_members()
        mesh.start_programs()
        say("joining with one-time tokens")
        await mesh.joined()
        return "a, b, c and the gateway joined; each holds certificates for its own services only"

    async def rules(say: Say) -> str:
        await mesh.apply(say, "destination-rules.yaml", "gateway.yaml")
        await mesh.page_ready()
        await mesh.found()
        return f"{layout.page}/productpage"

    screen.heading("Bringing a mesh up")
    await _set_up(mesh, screen, "Certificate authority and policy server", control)
    await _set_up(mesh, screen, "Three hosts and a gateway", members)
    await _set_up(mesh, screen, "Bookinfo behind the gateway", rules)


async def _walk(mesh: Mesh, screen: Screen, chapters: Sequence[Chapter]) -> None:
    screen.heading("What it does")
    for chapter in chapters:
        screen.note(f"\n{chapter.why}")

        async def run(say: Say, chapter: Chapter = chapter) -> Verdict:
            mesh.processes.check()
            return await chapter.run(mesh, say)

        await _step(screen, chapter.title, run)


@contextlib.asynccontextmanager
async def background_load(mesh: Mesh) -> AsyncIterator[None]:
    """Somebody opens the page `LOAD_PER_SECOND` times a second while the block runs."""

    async def visit() -> None:
        while True:
            user = random.choice(("", "ann", "test-user"))
            await mesh.caller.text(f"/productpage?user={user}")
            await trio.sleep(random.expovariate(LOAD_PER_SECOND))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit)
        yield
        nursery.cancel_scope.cancel()


async def _sampled(mesh: Mesh, seconds: float) -> list[Flow]:
    before, start = await mesh.tallies(), trio.current_time()
    await trio.sleep(seconds)
    return flows(before, await mesh.tallies(), trio.current_time() - start)


def _show(screen: Screen, rows: Sequence[Flow]) -> None:
    if screen.console.is_terminal:
        screen.console.print(flow_table(rows, ""))
    else:
        table = Table(COLUMNS, [cells(row) for row in rows], empty="no traffic")
        screen.lines(plain_table(table).splitlines())


async def _who_talks_to_whom(mesh: Mesh, screen: Screen) -> None:
    rows: list[Flow] = []

    async def run(say: Say) -> Verdict:
        say("measuring under a gentle load")
        async with background_load(mesh):
            rows.extend(await _sampled(mesh, SAMPLE_SECONDS))
        unprotected = [row for row in rows if row.mutual < 1]
        return Verdict(
            len(rows) >= 3 and not unprotected,
            f"{len(rows)} pairs, {len(rows) - len(unprotected)} of them mTLS only",
            "at least three pairs of services, each with mTLS only",
        )

    screen.heading("Who talks to whom")
    await _step(screen, "From the hosts' own metrics", run)
    _show(screen, rows)


def _shown(path: Path) -> str:
    """A path as a person at this prompt would type it."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _meshctl() -> str:
    """How to call this very installation from here."""
    ours = tool("meshctl")
    return "meshctl" if shutil.which("meshctl") == ours else _shown(Path(ours))


def next_steps(layout: Layout) -> list[str]:
    """What to try on the running demo; every line can be pasted."""
    ctl = f"{_meshctl()} --context {_shown(layout.operator)}"
    rules, folder = _shown(EXAMPLES), _shown(layout.folder)
    reviews = f"{layout.page}/api/v1/products/1/reviews"
    return [
        f"page     {layout.page}/productpage   (sign in as test-user: stars)",
        f"as JSON  curl -s -H 'end-user: test-user' {reviews}",
        f"hosts    {ctl} status",
        f"health   {ctl} check",
        f"routes   {ctl} proxy config a routes",
        f"canary   {ctl} apply -f {rules}/virtual-service-canary-90-10.yaml --wait",
        f"plain    {ctl} delete pa default --wait",
        f"faults   curl -sX POST '{_ratings(layout)}/fail?percent=30'",
        f"logs     {folder}/*/log, {folder}/*/access.log",
    ]


def _ratings(layout: Layout) -> str:
    return f"http://{layout.address('c')}:19083"


async def _stay(mesh: Mesh, screen: Screen) -> None:
    """Until Ctrl-C: load, and on a terminal a live table of the last seconds."""
    screen.heading("It stays up until Ctrl-C")
    screen.lines(next_steps(mesh.layout))
    async with background_load(mesh):
        try:
            await _watch(mesh, screen)
        except Failure as fault:
            screen.lines(fault.problems)
            screen.finish("Running", Verdict(False, fault.message, remedy=fault.remedy))


async def _watch(mesh: Mesh, screen: Screen) -> NoReturn:
    if not screen.console.is_terminal:
        while True:
            mesh.processes.check()
            await trio.sleep(1)
    with Live(console=screen.console, auto_refresh=False) as live:
        while True:
            mesh.processes.check()
            rows = await _sampled(mesh, 2.0)
            live.update(flow_table(rows, "\nThe last 2 seconds"), refresh=True)


async def _demo(layout: Layout, processes: Processes, screen: Screen, once: bool) -> None:
    async with Caller(layout.page) as caller:
        mesh = Mesh(layout, processes, caller)
        try:
            await _bring_up(mesh, screen)
        except _PointlessError:
            return
        await _walk(mesh, screen, CHAPTERS)
        await _who_talks_to_whom(mesh, screen)
        if not once:
            await _stay(mesh, screen)


async def _guarded(layout: Layout, processes: Processes, screen: Screen, once: bool) -> bool:
    """Run the demo; False when a signal ended it."""
    finished = False

    async def work() -> None:
        nonlocal finished
        await _demo(layout, processes, screen, once)
        screen.console.print()
        finished = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            nursery.start_soon(work)
            async for _ in signals:
                nursery.cancel_scope.cancel()
    return finished


def run_demo(folder: Path, port: int | None, listen: str, *, once: bool, consul: bool) -> int:
    """The whole demo; returns the exit status.  Raises Failure before anything was started."""
    if not EXAMPLES.is_dir():
        raise Failure(
            Exit.CHECK_FAILED,
            "the demo's application is not part of an installed package",
            "run it from a checkout: `make demo`",
        )
    folder = folder.absolute()
    lock = claim_folder(folder)
    edge = free_port(listen, range(port, port + 1)) if port else free_port(listen)
    block = claim_block(lambda number: needed(number, consul=consul))
    layout = Layout(folder, block.number, (listen, edge), consul)
    files.write_all(layout)
    screen = Screen(Console(highlight=False))
    try:
        with Processes() as processes:
            finished = trio.run(_guarded, layout, processes, screen, once)
    finally:
        block.claim.close()
        os.close(lock)
    if screen.failed:
        screen.lines([f"{screen.failed} step(s) failed; the daemons' logs are in {folder}"])
        return int(Exit.CHECK_FAILED)
    return int(Exit.INTERRUPTED if once and not finished else Exit.OK)
