"""``mesh-gateway``: the agent of an edge host; same commands and exit status as ``meshd``."""

from __future__ import annotations

from typing import Any

from meshd.cli import make_cli


def _edge() -> Any:
    from gateway.certificates import EdgeCertificates

    return EdgeCertificates()


main = make_cli("gateway", "mesh-gateway", "The agent of an edge host: ingress.", _edge)
