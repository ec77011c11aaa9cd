"""Which discovery backend a configuration means."""

from __future__ import annotations

from meshd.agent.client import FAULTS, Connector, HostClient
from meshd.agent.context import Agent
from meshd.discovery.base import Discovery
from meshd.discovery.local import HostAddress
from meshd.discovery.view import HoldRules


def make_discovery(agent: Agent, connector: Connector) -> Discovery:
    """The backend of ``discovery.kind``.  Imports only what it needs."""
    config, chosen = agent.config, agent.config.discovery
    host = HostAddress(config.host, config.address, config.mesh_port)
    rules = HoldRules(chosen.hold_empty)
    if chosen.kind == "consul":
        from meshd.discovery.consul import ConsulDiscovery

        return ConsulDiscovery(
            chosen.consul, host,
            token_file=chosen.token_file, ca_file=chosen.ca_file, rules=rules,
        )  # fmt: skip
    if chosen.kind == "static":
        from meshd.discovery.static import StaticDiscovery

        assert chosen.folder is not None
        return StaticDiscovery(chosen.folder, host)
    from meshd.discovery.embedded import EmbeddedDiscovery

    client = HostClient(lambda: agent.member, connector)
    return EmbeddedDiscovery(client, host, (*FAULTS, OSError), rules=rules)
