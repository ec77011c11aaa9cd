"""`make soak`, small: the same promises with less of everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.soak import MIB, PROTOCOLS, soak

BODY = 150 * MIB
REQUESTS = 8_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_bodies_take_no_memory(tmp_path: Path, protocol: str) -> None:
    with soak(tmp_path, print) as running:
        running.bodies(BODY, (protocol,))


def test_short_requests_with_aborts_leave_nothing(tmp_path: Path) -> None:
    with soak(tmp_path, print) as running:
        running.requests(REQUESTS)
