"""Waiting for a condition, with a bound that only a broken mesh reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

GENEROUS = 30.0


def until(condition: Callable[[], object], what: str, seconds: float = GENEROUS) -> None:
    """Poll until true; AssertionError with what was awaited."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
