"""The mTLS mode of a workload's port (istio-semantics 5).

Port > workload > namespace > mesh > PERMISSIVE, and UNSET inherits from the
level above.  Of several policies on one level only the oldest is looked at, so
an oldest that is UNSET inherits and does not fall through to a younger one.

⚠ ``portLevelMtls`` names the WORKLOAD's port (where the application listens), not
the service's, and acts only in a policy with a selector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from meshkit.model.resources import PeerAuthentication, PeerMode
from meshkit.routing.age import by_age

Mode = Literal["DISABLE", "PERMISSIVE", "STRICT"]


def effective_mode(
    policies: Iterable[PeerAuthentication],
    *,
    namespace: str,
    labels: Mapping[str, str],
    target_port: int,
    root_namespace: str,
) -> Mode:
    """What a workload's port accepts; ``policies`` are all of the mesh's."""
    ordered = by_age(policies)
    workload = next((p for p in ordered if _selects(p, namespace, labels)), None)
    levels: list[PeerMode] = ["PERMISSIVE", _level(ordered, root_namespace)]
    levels.append(_level(ordered, namespace))
    if workload is not None:
        levels += [workload.mode, workload.port_modes.get(target_port, "UNSET")]
    return next(mode for mode in reversed(levels) if mode != "UNSET")


def _selects(policy: PeerAuthentication, namespace: str, labels: Mapping[str, str]) -> bool:
    """A selector without labels is none: the policy is its namespace's."""
    if not policy.selector or policy.meta.namespace != namespace:
        return False
    return policy.selector.items() <= labels.items()


def _level(ordered: Iterable[PeerAuthentication], namespace: str) -> PeerMode:
    for policy in ordered:
        if policy.meta.namespace == namespace and not policy.selector:
            return policy.mode
    return "UNSET"
