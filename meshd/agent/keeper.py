"""The task that holds this host's identities: join, renew, hand keys to the workers.

The decisions are `meshd.agent.identities`; here is only their order, and what
is said when one fails.  Nothing here ever gives up: the control plane may come
back in a minute or in ten hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from meshd.agent.client import FAULTS, Client, Connector, NoToken, read_token
from meshd.agent.context import Agent
from meshd.agent.identities import join, renew_expired, sign
from meshd.agent.ledger import KeyPair
from meshd.agent.store import HOST, Identity, Membership, Unusable
from meshd.agent.timing import backoff

JOIN_CAP = 10.0
"""A host that waits for its token should be up soon after it is there."""
LOOK_EVERY = 60.0
"""Seconds of sleep at most: the wall clock may be set while we sleep."""
SHORTEST = 0.05

CALL_FAULTS = (*FAULTS, Unusable, OSError, KeyError)


async def keep_identities(agent: Agent, connector: Connector) -> None:
    """Join if need be, then renew for ever."""
    await _become_member(agent, connector)
    while True:
        agent.roster.want(agent.wanted_names(), agent.store.load)
        publish_keys(agent)
        due = agent.roster.due(agent.wall())
        if due:
            await _renew(agent, connector, due)
            publish_keys(agent)
        await agent.identities.wait_until(trio.current_time() + _pause(agent))


def _pause(agent: Agent) -> float:
    now = agent.wall()
    times = [t for t in (agent.roster.next_due(), agent.roster.next_expiry(now)) if t is not None]
    return min(max(min(times, default=now + LOOK_EVERY) - now, SHORTEST), LOOK_EVERY)


async def _become_member(agent: Agent, connector: Connector) -> None:
    """Return with a membership and a host identity on disk."""
    agent.roster.want([HOST], agent.store.load)
    attempt = 0
    while agent.member is None or agent.roster.held[HOST].identity is None:
        try:
            await _join(agent, connector)
        except (NoToken, *CALL_FAULTS) as error:
            attempt += 1
            agent.link.error = str(error)
            agent.log.error("not_joined", reason=str(error), attempt=attempt)
            await trio.sleep(backoff(attempt, agent.chance(), cap=JOIN_CAP))
    agent.joined.set()


async def _join(agent: Agent, connector: Connector) -> None:
    host = agent.config.host
    token = read_token(agent.config.token_file, host)
    member, identity = await join(connector.with_token(token), agent.store, host, token)
    agent.roster.renewed(identity)
    take_membership(agent, member)
    agent.log.info("joined", identity=identity.spiffe, trust_domain=member.mesh.trust_domain)


def take_membership(agent: Agent, member: Membership) -> None:
    """Settings and roots for everybody who needs them."""
    agent.member = member
    agent.policy.mesh = member.mesh
    agent.policy.set_roots(member.roots)


def publish_keys(agent: Agent) -> None:
    """Workers get every identity that may be shown; the host's own stays here."""
    wanted = agent.pool.wanted
    keys = {
        identity.spiffe: KeyPair(identity.chain, identity.key)
        for name, identity in agent.usable().items()
        if name != HOST
    }
    wanted.keys = {**keys, **agent.edge_keys}
    wanted.roots = dict(agent.policy.roots)
    agent.pool.touch()


def take_roots(agent: Agent, roots: Mapping[str, str]) -> None:
    """New roots from the server: on disk first, then to the workers."""
    if agent.member is None or not roots or dict(agent.member.roots) == dict(roots):
        return
    member = Membership(agent.member.host, agent.policy.mesh, dict(roots))
    agent.store.save_membership(member)
    take_membership(agent, member)
    agent.log.info("roots_changed", trust_domains=sorted(roots))
    publish_keys(agent)


async def _renew(agent: Agent, connector: Connector, due: Sequence[str]) -> None:
    assert agent.member is not None
    try:
        await _renew_host_if_expired(agent, connector, agent.member)
        client = connector.as_host(agent.member)
        await _sign(agent, client, [n for n in due if n in agent.roster.due(agent.wall())])
    except CALL_FAULTS as error:
        now = agent.wall()
        for name in due:
            _failed(agent, name, str(error), now)
    agent.report.set()


async def _renew_host_if_expired(agent: Agent, connector: Connector, member: Membership) -> None:
    held = agent.roster.held[HOST]
    if held.identity is None or held.usable(agent.wall()):
        return
    agent.log.warning("host_identity_expired", identity=held.identity.spiffe)
    client = connector.anonymous(member)
    _renewed(agent, await renew_expired(client, agent.store, held.identity))


async def _sign(agent: Agent, client: Client, names: Sequence[str]) -> None:
    if not names:
        return
    assert agent.member is not None
    signed = await sign(client, agent.store, names, agent.member.mesh, FAULTS[0])
    for identity in signed.renewed:
        _renewed(agent, identity)
    for name, why in signed.failed.items():
        _failed(agent, name, why, agent.wall())
    take_roots(agent, signed.roots)


def _renewed(agent: Agent, identity: Identity) -> None:
    agent.roster.renewed(identity)
    agent.renewals += 1
    agent.log.info(
        "certificate_issued", identity=identity.spiffe, serial=identity.serial,
        not_after=identity.life.expires,
    )  # fmt: skip


def _failed(agent: Agent, name: str, why: str, now: float) -> None:
    agent.roster.failed(name, why, now)
    agent.renewal_failures += 1
    held = agent.roster.held[name]
    left = held.identity.life.expires - now if held.identity else None
    agent.log.error("certificate_not_issued", name=name, reason=why, seconds_left=left)
