"""Structured logs: one JSON object a line on stderr, ``ts``, ``level``, ``event``, then fields.

Events are names in snake_case, made for grep and for alert rules; what a person
should do about it stands in a field ``remedy``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

Clock = Callable[[], float]


def render(now: float, level: str, event: str, fields: dict[str, Any]) -> str:
    """One line without its newline; ``now`` is Unix time in seconds."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    record = {"ts": f"{stamp}.{int(now % 1 * 1000):03d}Z", "level": level, "event": event}
    return json.dumps({**record, **fields}, default=str, ensure_ascii=False)


class Log:
    """Writes records; a full or closed stderr never stops the daemon."""

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.time, **common: Any):
        self._stream = stream
        self._clock = clock
        self._common = common

    def write(self, level: str, event: str, **fields: Any) -> None:
        line = render(self._clock(), level, event, {**self._common, **fields})
        try:
            print(line, file=self._stream or sys.stderr, flush=True)
        except (OSError, ValueError):
            # The disk behind stderr may be full: traffic matters more than the line.
            return

    def info(self, event: str, **fields: Any) -> None:
        self.write("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.write("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self.write("error", event, **fields)
