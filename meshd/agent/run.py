"""The agent put together: which task runs when, and what the signals mean.

===========  ==============================================================
SIGTERM/INT  the agent ends; workers go on, the next agent adopts them
             (`--own-workers`: its services are deregistered, they drain and
             end with it)
SIGHUP       configuration and services.d are read again, the access log
             is reopened
===========  ==============================================================

Start from disk comes first: the last good policy, instances and certificates
give a snapshot before anybody has been asked.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from meshd.agent import lock
from meshd.agent.admin import admin_router, open_tcp, open_unix, probe_router, serve
from meshd.agent.client import Connector
from meshd.agent.compiling import Edge, compile_snapshots, note_live
from meshd.agent.context import Agent
from meshd.agent.control import declare_services, follow_policy, report_state
from meshd.agent.identities import Roster
from meshd.agent.inputs import restore_instances
from meshd.agent.keeper import keep_identities, publish_keys, take_membership
from meshd.agent.local import leave, run_discovery, serve_services
from meshd.agent.log import Log
from meshd.agent.notify import Notifier
from meshd.agent.policy import restore
from meshd.agent.pool import Pool, PoolSettings
from meshd.agent.reports import missing
from meshd.agent.store import HOST, Store
from meshd.config import AgentConfig, ConfigError, load_config
from meshd.services import load_folder
from meshkit import __version__
from meshkit.routing.compile import Compiler

STATUS_EVERY = 2.0
FIXED = ("host", "address", "workers", "runtime", "state", "discovery", "control", "metrics")
"""Settings that a reload does not change: they are what the running processes stand on."""


async def run_agent(
    config: AgentConfig,
    connector: Callable[[AgentConfig, Store], Connector],
    *,
    own_workers: bool = False,
    edge: Any = None,
) -> None:
    """Run until a signal.  Raises ConfigError, lock.Locked or OSError at the start."""
    log = Log(role=config.role, host=config.host)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold every key of the host
    config.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
    held = lock.take(config.runtime / "agent.lock")
    try:
        agent = make_agent(config, log, own_workers)
        log.info("agent_started", version=__version__, pid=os.getpid(), config=config.source)
        await _run(agent, connector(config, agent.store), edge, own_workers)
    finally:
        os.close(held)


def make_agent(config: AgentConfig, log: Log, own_workers: bool) -> Agent:
    """The host's state as the disk has it."""
    settings = PoolSettings(
        config.runtime, config.workers, owned=own_workers, uids=config.worker_uids
    )
    store = Store(config.state)
    ring: list[Callable[[], None]] = []
    pool = Pool(settings, log, lambda: ring[0]())
    chance = random.SystemRandom().random
    agent = Agent(
        config=config, log=log, store=store, pool=pool, wall=time.time, chance=chance,
        roster=Roster(chance), policy=restore(store.read("policy")), member=store.membership(),
        services=load_folder(config), remembered=restore_instances(store.read("instances")),
    )  # fmt: skip
    ring.append(partial(note_live, agent))
    _take_from_disk(agent)
    open_access_log(agent)
    return agent


def _take_from_disk(agent: Agent) -> None:
    member = agent.member
    if member is not None and member.host != agent.config.host:
        agent.log.error(
            "state_of_another_host", host=member.host,
            remedy=f"set host: {member.host}, or empty {agent.config.state} and join again",
        )  # fmt: skip
        agent.member = member = None
    agent.roster.want(agent.wanted_names(), agent.store.load)
    if member is not None:
        take_membership(agent, member)
        publish_keys(agent)
        if agent.roster.held[HOST].identity is not None:
            agent.joined.set()
    agent.compiled.live_revision = 0


def open_access_log(agent: Agent) -> None:
    """Open it (again); on failure the old descriptor stays."""
    wanted = agent.pool.wanted
    try:
        descriptor = _open_log(agent.config.access_log)
    except OSError as error:
        agent.log.error("access_log_not_opened", reason=str(error))
        return
    if wanted.access_log is not None:
        os.close(wanted.access_log)
    wanted.access_log = descriptor
    wanted.access_log_opened += 1
    agent.pool.touch()


def _open_log(target: str) -> int | None:
    if target == "off":
        return None
    if target == "stdout":
        return os.dup(sys.stdout.fileno())
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    return os.open(target, flags, 0o640)


async def _run(agent: Agent, connector: Connector, edge: Any, own_workers: bool) -> None:
    notifier = Notifier(os.environ, os.getpid())
    compiler = Compiler()
    on_compiled: Edge | None = edge.compiled if edge is not None else None
    reload = partial(reload_config, agent)
    admin = await open_unix(agent.config.runtime / "admin.sock")
    probes = await open_tcp(agent.config.metrics) if agent.config.metrics else None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            start = nursery.start_soon
            await nursery.start(agent.pool.run)
            start(serve, admin, admin_router(agent, reload), agent.log)
            if probes is not None:
                start(serve, probes, probe_router(agent), agent.log)
            start(keep_identities, agent, connector)
            start(_after_joining, agent, partial(compile_snapshots, agent, compiler, on_compiled))
            for task in (follow_policy, declare_services, report_state, run_discovery):
                start(_after_joining, agent, partial(task, agent, connector))
            start(serve_services, agent)
            start(_tell_systemd, agent, notifier)
            if edge is not None:
                start(edge.watch, agent)
            agent.compile.set()
            await _until_told(signals, reload)
            notifier.send("STOPPING=1")
            if own_workers:
                spent = await leave(agent)
                await agent.pool.drain(agent.config.drain - spent)
            agent.log.info("agent_ended", workers="ended" if own_workers else "go on")
            nursery.cancel_scope.cancel()


async def _after_joining(agent: Agent, task: Callable[[], Awaitable[None]]) -> None:
    """Without an identity there is nobody to talk to, and no mesh to compile for."""
    await agent.joined.wait()
    await task()


async def _until_told(signals: AsyncIterator[int], reload: Callable[[], Awaitable[str]]) -> None:
    async for number in signals:
        if number != signal.SIGHUP:
            return
        await reload()


async def reload_config(agent: Agent) -> str:
    """Read configuration and services again; what is wrong, "" when it is in force."""
    old = agent.config
    open_access_log(agent)
    try:
        read = load_config(Path(old.source), old.role)
        services = load_folder(read)
    except ConfigError as error:
        agent.reload_fault = str(error)
        agent.log.error("reload_refused", problems=str(error).splitlines())
        return agent.reload_fault
    kept = {name: getattr(old, name) for name in FIXED}
    later = [name for name in FIXED if getattr(read, name) != kept[name]]
    if later:
        agent.log.warning("restart_needed", settings=later)
    agent.reload_fault = ""
    agent.config, agent.services = replace(read, **kept), services
    if read.access_log != old.access_log:
        open_access_log(agent)
    for changed in (agent.identities, agent.services_changed, agent.declare, agent.compile):
        changed.set()
    agent.log.info("reloaded", services=len(services.services))
    return ""


async def _tell_systemd(agent: Agent, notifier: Notifier) -> None:
    """READY once traffic is served, STATUS with what is missing, WATCHDOG while we turn."""
    ready = False
    while True:
        lacking = missing(agent, ())
        if not lacking and not ready:
            ready = True
            agent.log.info("ready", workers=agent.config.workers)
            notifier.send("READY=1")
        status = lacking[0] if lacking else f"{agent.config.workers} workers serve"
        notifier.send("WATCHDOG=1", f"STATUS={status}")
        await trio.sleep(min(STATUS_EVERY, notifier.watchdog or STATUS_EVERY))
