"""How long to wait after a fault, and how often at most to ask."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

FIRST = 0.5  # a restarted agent is back within a second or two
LONGEST = 15.0  # what an operator who mended something waits at most


@dataclass(slots=True)
class Backoff:
    """Doubling waits in seconds, each between half and the whole of its step.

    The jitter keeps the watches of one host, and the hosts of one mesh, from
    asking a backend that comes back all at once.
    """

    chance: Callable[[], float] = random.random
    first: float = FIRST
    longest: float = LONGEST
    _step: float = 0.0

    def next(self) -> float:
        self._step = min(self.longest, self._step * 2 or self.first)
        return self._step * (0.5 + self.chance() / 2)

    def reset(self) -> None:
        self._step = 0.0


def fault_text(fault: BaseException) -> str:
    """One short line for `status`; libraries put whole answers into theirs."""
    text = " ".join(str(fault).split())
    return f"{type(fault).__name__}: {text[:160]}" if text else type(fault).__name__
