"""When to act, as functions of plain numbers: backoff, retries of a renewal, debounce.

No clock and no randomness in here: ``now`` is any clock's seconds, ``chance`` a
number in [0, 1).  When a certificate is due stands in `meshkit.identity.rotation`.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.identity.rotation import retry_delay

RETRY_BASE = 1.0
RETRY_CAP = 60.0
RETRY_SHARE = 0.1
"""A retry waits at most this share of the life that is left: never past expiry, and
a one-minute leaf is retried every few seconds."""

QUIET = 0.05
LATEST = 0.2
"""Compile after 50 ms without news, and 200 ms after the first of them at the latest:
a burst of changes costs one compilation, a steady stream cannot put it off."""


def backoff(attempt: int, chance: float, base: float = RETRY_BASE, cap: float = RETRY_CAP) -> float:
    """Seconds to wait after the ``attempt``-th failure (from 1): doubling, upper half jittered."""
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 32))
    return ceiling * (0.5 + 0.5 * chance)


def renewal_retry(failures: int, chance: float, left: float) -> float:
    """Seconds until a failed renewal is tried again; ``left`` until expiry (may be negative)."""
    return min(retry_delay(failures, chance), max(RETRY_BASE, left * RETRY_SHARE))


@dataclass(slots=True)
class Debounce:
    """Turns a burst of changes into one action: `note` each, act when `due` has come."""

    quiet: float = QUIET
    latest: float = LATEST
    first: float | None = None
    last: float = 0.0

    def note(self, now: float) -> None:
        if self.first is None:
            self.first = now
        self.last = now

    def due(self) -> float | None:
        """The time to act; None when there is nothing to do."""
        if self.first is None:
            return None
        return min(self.last + self.quiet, self.first + self.latest)

    def done(self) -> None:
        self.first = None
