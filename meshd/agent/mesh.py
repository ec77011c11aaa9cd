"""The mesh's settings as JSON, the same on the wire and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshkit.names import MeshSettings


def mesh_settings(value: Mapping[str, Any]) -> MeshSettings:
    """``{trustDomain, domain, rootNamespace}`` as join and the policy stream give it."""
    return MeshSettings(
        str(value["trustDomain"]), str(value["domain"]), str(value["rootNamespace"])
    )


def mesh_document(mesh: MeshSettings) -> dict[str, str]:
    """The inverse of `mesh_settings`."""
    return {
        "trustDomain": mesh.trust_domain,
        "domain": mesh.domain,
        "rootNamespace": mesh.root_namespace,
    }
