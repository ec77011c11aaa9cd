"""When to act, as functions of plain numbers: renewal, backoff, debounce.

No clock and no randomness in here: ``now`` is any clock's seconds, ``chance`` a
number in [0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

RENEW_FROM = 0.45
RENEW_TO = 0.50
"""Share of a certificate's life after which it is renewed (limits-and-faults 3).

Half of the life is left for a control plane that is away; the spread keeps a
thousand hosts that joined together from asking in the same second.
"""

RETRY_BASE = 1.0
RETRY_CAP = 60.0
RETRY_SHARE = 0.02
"""A retry waits at most this share of the life: a one-minute leaf retries every second."""

QUIET = 0.05
LATEST = 0.2
"""Compile after 50 ms without news, and 200 ms after the first of them at the latest:
a burst of changes costs one compilation, a steady stream cannot put it off."""


def renewal_time(not_before: float, not_after: float, chance: float) -> float:
    """Unix time at which a certificate with these bounds is due for renewal."""
    share = RENEW_FROM + (RENEW_TO - RENEW_FROM) * chance
    return not_before + (not_after - not_before) * share


def backoff(attempt: int, chance: float, base: float = RETRY_BASE, cap: float = RETRY_CAP) -> float:
    """Seconds to wait after the ``attempt``-th failure (from 1): doubling, upper half jittered."""
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 32))
    return ceiling * (0.5 + 0.5 * chance)


def renewal_retry(attempt: int, chance: float, lifetime: float) -> float:
    """Backoff of a failed renewal, short enough for a short-lived certificate."""
    cap = min(RETRY_CAP, max(RETRY_BASE, lifetime * RETRY_SHARE))
    return backoff(attempt, chance, cap=cap)


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
