"""The tasks that talk to the policy server: follow the stream, declare, report, answer.

Each lives for the agent's life.  A fault ends a connection, never a task: what
was the last good state goes on, and the next attempt comes after a backoff.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import trio

from meshd.agent.answers import answer
from meshd.agent.client import FAULTS, Client, Connector
from meshd.agent.context import Admission, Agent
from meshd.agent.keeper import take_roots
from meshd.agent.policy import Malformed
from meshd.agent.reports import report
from meshd.agent.timing import backoff

SILENCE = 45.0
"""The server pings every 15 s: after three that did not come the connection is dead."""
REPORT_EVERY = 10.0
REPORT_GAP = 0.1
"""Seconds between two reports at least: a rollout changes many things at once."""
RECONNECT_CAP = 10.0
CALL_WITHIN = 10.0


async def follow_policy(agent: Agent, connector: Connector) -> None:
    """Hold the stream open; apply what comes."""
    attempt = 0
    async with trio.open_nursery() as answers:
        while True:
            assert agent.member is not None
            began = trio.current_time()
            try:
                await _follow(agent, connector.as_host(agent.member), answers)
                reason = "the server ended the stream"
            except (Malformed, OSError, *FAULTS) as error:
                reason = str(error) or type(error).__name__
            lived = trio.current_time() - began
            attempt = 1 if agent.link.connected and lived > SILENCE else attempt + 1
            if agent.link.connected or attempt == 1:
                agent.log.warning("policy_stream_lost", reason=reason)
            agent.link.connected, agent.link.error = False, reason
            await trio.sleep(backoff(attempt, agent.chance(), cap=RECONNECT_CAP))


async def _follow(agent: Agent, client: Client, answers: trio.Nursery) -> None:
    async with client.stream("/v1/stream", agent.policy.stream_query()) as messages:
        while (message := await _next(messages)) is not None:
            if not agent.link.connected:
                agent.link.connected, agent.link.error = True, ""
                agent.log.info("policy_stream_open", revision=agent.policy.revision)
                agent.declare.set()
                agent.report.set()
            if message.get("type") == "query":
                answers.start_soon(_answer, agent, client, message)
            else:
                take_message(agent, message)


async def _next(messages: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    """The next message, None at the end; OSError after too long a silence."""
    with trio.move_on_after(SILENCE):
        return await anext(messages, None)
    raise OSError(f"nothing came for {SILENCE:g} s")


def take_message(agent: Agent, message: Mapping[str, Any]) -> None:
    """Apply one message of the stream and ring who must know."""
    before = agent.policy.refusal
    changed = agent.policy.apply(message)
    kind = message.get("type")
    if kind == "roots":
        take_roots(agent, agent.policy.roots)
    if kind == "naming" and agent.admission.refused:
        agent.declare.set()  # what was refused may be admitted by now
    if agent.policy.refusal and agent.policy.refusal != before:
        agent.log.error("policy_refused", revision=agent.policy.received_revision,
                        reason=agent.policy.refusal)  # fmt: skip
    if kind in ("state", "changes"):
        agent.log.info("policy_received", revision=agent.policy.received_revision)
        agent.report.set()
    if changed or kind in ("state", "changes"):
        # An acknowledgement of a revision that changes nothing here needs a compilation too.
        agent.compile.set()


async def _answer(agent: Agent, client: Client, query: Mapping[str, Any]) -> None:
    rows = await trio.to_thread.run_sync(
        answer, str(query.get("what")), agent.compiled.snapshot, agent.usable()
    )
    try:
        with trio.move_on_after(CALL_WITHIN):
            await client.post(f"/v1/answers/{query['id']}", rows)
    except (OSError, *FAULTS) as error:
        agent.log.warning("query_not_answered", reason=str(error))


async def declare_services(agent: Agent, connector: Connector) -> None:
    """Tell the server which services this host has; again after each change."""
    attempt = 0
    while True:
        await agent.declare.wait()
        assert agent.member is not None
        try:
            with trio.fail_after(CALL_WITHIN):
                body = {"services": declarations(agent)}
                result = await connector.as_host(agent.member).post("/v1/services", body)
            attempt = 0
            take_admission(agent, result)
        except (trio.TooSlowError, OSError, KeyError, *FAULTS) as error:
            attempt += 1
            agent.log.warning("services_not_declared", reason=str(error))
            await trio.sleep(backoff(attempt, agent.chance(), cap=RECONNECT_CAP))
            agent.declare.set()


def declarations(agent: Agent) -> list[dict[str, Any]]:
    """The body of ``POST /v1/services``."""
    return [
        {
            "namespace": s.namespace,
            "name": s.name,
            "account": f"{s.namespace}/{s.service_account}",
            "instance": s.instance,
            "ports": [{"name": p.name, "port": p.port, "protocol": p.protocol} for p in s.ports],
            "labels": dict(s.labels),
        }
        for s in agent.services.services
    ]


def take_admission(agent: Agent, result: Mapping[str, Any]) -> None:
    refused = tuple((r["service"], r["reason"], r["remedy"]) for r in result["refused"])
    for name, reason, remedy in set(refused) - set(agent.admission.refused):
        agent.log.error("service_refused", service=name, reason=reason, remedy=remedy)
    before, agent.admission = agent.admission, Admission(tuple(result["admitted"]), refused)
    if before != agent.admission:
        agent.services_changed.set()
        agent.report.set()


async def report_state(agent: Agent, connector: Connector) -> None:
    """``POST /v1/report`` on every change and every ten seconds, while connected."""
    while True:
        await agent.report.wait_until(trio.current_time() + REPORT_EVERY)
        if agent.link.connected and agent.member is not None:
            try:
                with trio.move_on_after(CALL_WITHIN):
                    await connector.as_host(agent.member).post("/v1/report", report(agent))
            except (OSError, *FAULTS) as error:
                agent.log.warning("not_reported", reason=str(error))
        await trio.sleep(REPORT_GAP)
