"""The effective mTLS mode (istio-semantics 5, trap 25), from tests/vectors/routing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshkit.model.resources import PeerAuthentication
from meshkit.routing.peer_authentication import effective_mode

VECTORS = Path(__file__).parents[2] / "vectors" / "routing" / "peer_authentication.json"
CASES = json.loads(VECTORS.read_text())


def policy(make: Any, index: int, spec: dict[str, Any]) -> PeerAuthentication:
    return PeerAuthentication(
        make.meta("PeerAuthentication", f"p{index}", spec["namespace"], spec.get("created", 1)),
        spec.get("selector"),
        spec.get("mode", "UNSET"),
        {int(port): mode for port, mode in spec.get("ports", {}).items()},
    )


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
@pytest.mark.parametrize("order", [1, -1], ids=["as listed", "reversed"])
def test_vectors(make: Any, case: dict[str, Any], order: int) -> None:
    policies = [policy(make, index, spec) for index, spec in enumerate(case["policies"])]
    mode = effective_mode(
        policies[::order],
        namespace=case.get("namespace", "default"),
        labels={"app": "reviews", "version": "v1"},
        target_port=19080,
        root_namespace="istio-system",
    )
    assert mode == case["mode"]
