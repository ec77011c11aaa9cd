"""PeerAuthentication: which inbound connections are accepted."""

from __future__ import annotations

from typing import Any

from meshkit.model.common import WORKLOAD_SELECTOR, Draft
from meshkit.model.decode import Field, MapOf, Message, Parts, Spot
from meshkit.model.resources import PeerAuthentication
from meshkit.model.scalars import enum

_MTLS = Message(
    "MutualTLS",
    (Field("mode", enum("UNSET", "DISABLE", "PERMISSIVE", "STRICT"), note="UNSET inherits"),),
    lambda parts: parts.get("mode", "UNSET"),
)


def _port_key(text: str, spot: Spot) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    spot.error(f'"{text[:60]}" is not a port', "give the workload's port, 1 to 65535")
    return None


def _build(parts: Parts) -> Any:
    """⚠ Port-level modes need a selector: ports are a workload's, not a namespace's."""
    selector = parts.get("selector")
    if parts.get("portLevelMtls") and not selector:
        parts.at("portLevelMtls").error(
            "portLevelMtls needs a selector: its ports are those of one workload",
            "add selector: with matchLabels",
        )
    mode, ports = parts.get("mtls", "UNSET"), parts.get("portLevelMtls", {})
    draft: Draft = lambda meta: PeerAuthentication(meta, selector or None, mode, ports)  # noqa: E731
    return draft


PEER_AUTHENTICATION = Message(
    "PeerAuthentication",
    (
        Field("selector", WORKLOAD_SELECTOR, note="absent: the whole namespace"),
        Field("mtls", _MTLS),
        Field("portLevelMtls", MapOf(_MTLS, _port_key), note="the WORKLOAD's ports"),
    ),
    _build,
)
