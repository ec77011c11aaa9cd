"""How a VirtualService names a gateway."""

from __future__ import annotations

from typing import Any

from meshkit.model.decode import Spot
from meshkit.model.dns import is_label, is_name
from meshkit.model.scalars import String

MESH = "mesh"
"""The reserved gateway name: all callers inside the mesh."""


def _gateway(text: str, spot: Spot) -> Any:
    namespace, slash, name = text.rpartition("/")
    if is_name(name) and (is_label(namespace) or not slash):
        return text
    return spot.error(f'"{text[:70]}" is not a gateway', "write <name> or <namespace>/<name>")


def qualified(gateway: str, namespace: str) -> str:
    """``<namespace>/<name>``: a bare name is in the VirtualService's namespace."""
    return gateway if gateway == MESH or "/" in gateway else f"{namespace}/{gateway}"


GATEWAY_NAME = String("a gateway", _gateway)
