"""The access log's descriptor, written in batches.

A line costs an append; the write comes at 64 lines or after a quarter of a
second.  A disk that is full or gone loses lines, which are counted, and never
stops a request.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshd.worker.loop import Loop

BATCH = 64
DELAY = 0.25
"""Seconds that a line may wait: short enough for somebody who follows the log."""


class AccessLog:
    """Lines in, batches out.  ``lost`` is called with the number of lines dropped."""

    def __init__(self, loop: Loop, lost: Callable[[int], None]) -> None:
        self._loop = loop
        self._lost = lost
        self._fd: int | None = None
        self.enabled = False
        self._lines: list[bytes] = []
        self._waiting = False

    def use(self, fd: int | None) -> None:
        """Write to `fd` from now on (ours to close); None = the log is off."""
        self.flush()
        if self._fd is not None:
            os.close(self._fd)
        self._fd = fd
        self.enabled = fd is not None

    def add(self, line: bytes) -> None:
        """One whole line with its end."""
        self._lines.append(line)
        if len(self._lines) >= BATCH:
            self.flush()
        elif not self._waiting:
            self._waiting = True
            self._loop.call_later(DELAY, self._due)

    def _due(self) -> None:
        self._waiting = False
        self.flush()

    def flush(self) -> None:
        """Write what is there."""
        lines, self._lines = self._lines, []
        if not lines or self._fd is None:
            return
        data = b"".join(lines)
        try:
            written = os.write(self._fd, data)
        except OSError:
            written = 0
        if written < len(data):
            self._lost(data.count(b"\n", written))
