"""The task that turns what is known into what workers run.

A burst of changes is compiled once, in a thread: at thousands of services a
compilation takes a fraction of a second, in which the agent must go on
answering.  A compilation that fails leaves the last snapshot in force.  What a
good one was made from goes to the disk, so that a restart needs nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from meshd.agent.answers import host_config
from meshd.agent.context import Agent, Instances
from meshd.agent.inputs import dump_instances, effective_instances, is_informed, make_inputs
from meshd.agent.sockets import Want
from meshd.agent.timing import Debounce
from meshkit.model.problems import Problem
from meshkit.routing.compile import Compiler
from meshkit.routing.inputs import Inputs
from meshkit.snapshot.types import Snapshot

SAVE_EVERY = 5.0
"""Instances change often; a copy on disk that is a few seconds old is as good."""

Edge = Callable[[Agent, Compiler], None]
"""A gateway's part: reads the certificates that its servers name."""


async def compile_snapshots(
    agent: Agent, compiler: Compiler, on_compiled: Edge | None = None
) -> None:
    """Compile after each change, publish, save; for the agent's life."""
    debounce = Debounce()
    memory = _Memory(agent)
    while True:
        await agent.compile.wait_until(memory.expires())
        await _settle(agent, debounce)
        informed = memory.informed()
        inputs = make_inputs(agent.config, agent.services, agent.policy, memory.instances())
        revision = agent.policy.revision
        snapshot = await _compile(agent, compiler, inputs)
        if snapshot is None:
            continue
        if on_compiled is not None:
            on_compiled(agent, compiler)
        agent.compiled.informed |= informed
        publish(agent, snapshot, revision)
        await memory.save()


async def _settle(agent: Agent, debounce: Debounce) -> None:
    """Return when the burst is over."""
    debounce.note(trio.current_time())
    while (due := debounce.due()) is not None and trio.current_time() < due:
        with trio.move_on_at(due):
            await agent.compile.wait()
            debounce.note(trio.current_time())
    debounce.done()


async def _compile(agent: Agent, compiler: Compiler, inputs: Inputs) -> Snapshot | None:
    try:
        snapshot = await trio.to_thread.run_sync(compiler.compile, inputs)
    except Exception as error:
        # A fault of ours in one resource must not take the host's traffic with it.
        agent.compiled.fault = f"compilation failed: {type(error).__name__}: {error}"
        agent.log.error("compile_failed", reason=agent.compiled.fault)
        agent.report.set()
        return None
    agent.compiled.fault = ""
    _take_warnings(agent, compiler.problems)
    return snapshot


def _take_warnings(agent: Agent, problems: tuple[Problem, ...]) -> None:
    """Log what is new."""
    texts = tuple(str(p) for p in problems)
    for text in texts:
        if text not in agent.compiled.warnings:
            agent.log.warning("policy_without_effect", problem=text)
    agent.compiled.warnings = texts


def publish(agent: Agent, snapshot: Snapshot, revision: int) -> None:
    """Hand a snapshot made from policy ``revision`` to the workers."""
    before = agent.compiled.snapshot
    agent.compiled.snapshot, agent.compiled.revision = snapshot, revision
    wants = [Want(s.id, s.address, s.port) for s in host_config(snapshot).listeners]
    agent.pool.publish(snapshot, wants)
    if before is None or before.revision != snapshot.revision:
        agent.log.info("snapshot_published", revision=snapshot.revision, policy=revision)
    note_live(agent)


def note_live(agent: Agent) -> None:
    """After a worker's word: is the compiled policy revision live everywhere?"""
    compiled = agent.compiled
    states = agent.pool.states()
    wanted = compiled.snapshot.revision if compiled.snapshot else None
    if states and all(s.phase == "ready" and s.revision == wanted for s in states):
        compiled.live_revision = compiled.revision
    agent.report.set()


class _Memory:
    """Which instances count, and the copies on disk."""

    def __init__(self, agent: Agent):
        self._agent = agent
        self._began = trio.current_time()
        self._connected_at: float | None = None
        self._saved_at = float("-inf")
        self._saved: Instances = {}
        self._unsaved = False
        self._saved_policy: tuple[object, ...] = ()

    def instances(self) -> Instances:
        agent, view = self._agent, self._agent.view()
        if view.connected and self._connected_at is None:
            self._connected_at = trio.current_time()
        return effective_instances(view, agent.remembered, self._since(), self._hold())

    def informed(self) -> bool:
        agent = self._agent
        waited = trio.current_time() - self._began
        told = bool(agent.policy.epoch)
        return is_informed(agent.view(), agent.remembered, told, waited, self._hold())

    def expires(self) -> float | None:
        """When to compile without a change: a wait or a memory ends, or a copy is due."""
        times = [self._saved_at + SAVE_EVERY] if self._unsaved else []
        if not self._agent.compiled.informed:
            times.append(self._began + self._hold())
        if self._agent.remembered and self._connected_at is not None:
            end = self._connected_at + self._hold()
            times += [end] if end > trio.current_time() else []
        return min(times, default=None)

    def _hold(self) -> float:
        return self._agent.config.discovery.hold_empty

    def _since(self) -> float | None:
        return None if self._connected_at is None else trio.current_time() - self._connected_at

    async def save(self) -> None:
        """Write what has changed; a full disk is said and does no harm."""
        agent, policy = self._agent, self._agent.policy
        key = (policy.revision, policy.naming, policy.mesh, tuple(policy.roots.items()))
        try:
            if key != self._saved_policy:
                await _write(agent, "policy", policy.dump())
                self._saved_policy = key
            await self._save_instances()
        except OSError as error:
            agent.log.error("state_not_saved", reason=str(error))

    async def _save_instances(self) -> None:
        found = self.instances()
        self._unsaved = bool(found) and found != self._saved
        if self._unsaved and trio.current_time() >= self._saved_at + SAVE_EVERY:
            await _write(self._agent, "instances", dump_instances(found))
            self._saved, self._saved_at, self._unsaved = found, trio.current_time(), False


async def _write(agent: Agent, name: str, value: object) -> None:
    await trio.to_thread.run_sync(partial(agent.store.write, name, value))
