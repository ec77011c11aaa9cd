"""Structured logs: one JSON object a line on stderr: ``ts``, ``level``, ``event``, fields.

The same form as meshd's.  Nothing secret is ever passed in: no token, no key, no
request body.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


class Log:
    """Writes records; a full or closed stderr never stops the server."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._stream = stream
        self._clock = clock

    def write(self, level: str, event: str, **fields: Any) -> None:
        now = self._clock()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        record = {"ts": f"{stamp}.{int(now % 1 * 1000):03d}Z", "level": level, "event": event}
        line = json.dumps({**record, **fields}, default=str, ensure_ascii=False)
        try:
            print(line, file=self._stream or sys.stderr, flush=True)
        except (OSError, ValueError):
            return

    def info(self, event: str, **fields: Any) -> None:
        self.write("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.write("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self.write("error", event, **fields)
