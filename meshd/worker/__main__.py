"""`python -m meshd.worker`: one worker process.  Started by the agent or by systemd."""

from __future__ import annotations

import argparse
import gc
import resource
import signal
from pathlib import Path

from meshd.counters import CounterFile
from meshd.worker.context import WorkerContext
from meshd.worker.control import Control
from meshd.worker.loop import Loop

DRAIN_SECONDS = 45.0
"""Istio's default drain duration."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="meshd-worker", description=__doc__)
    parser.add_argument("--index", type=int, required=True, help="this worker's number, from 0")
    parser.add_argument("--socket", required=True, help="the agent's worker.sock")
    parser.add_argument("--counters", type=Path, required=True, help="this worker's counter file")
    return parser.parse_args()


def main() -> None:
    """Run until told to stop.  SIGTERM drains; no core is ever written (it holds keys)."""
    args = arguments()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = Loop()
    ctx = WorkerContext(loop, CounterFile(args.counters, create=True))
    loop.on_error = ctx.fiber_failed
    control = Control(ctx, args.socket, args.index)
    loop.spawn(control.run(), "control")
    signal.signal(signal.SIGTERM, lambda *_: _drain_soon(loop, ctx))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the agent's business
    # What lives now lives for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # Requests make no cycles; the few errors that do can wait longer than 700 objects.
    gc.set_threshold(20_000, 20, 50)
    loop.run()
    ctx.recorder.flush()
    ctx.log.flush()


def _drain_soon(loop: Loop, ctx: WorkerContext) -> None:
    """From a signal handler: between two fibers, and at once."""
    loop.call_later(0, ctx.drain, DRAIN_SECONDS)
    loop.wake()


if __name__ == "__main__":
    main()
