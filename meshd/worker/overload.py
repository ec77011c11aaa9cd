"""Descriptors run out: what is given up first, and what last.

    below 95 %   nothing
    95 %         answers carry Connection: close
    98 %         new requests are answered 503 and their connections closed
    100 %        accepting pauses (`Listener`), the kernel queues

Memory is not a trigger: the control group's count includes the page cache and all
processes of the unit, so it says little of a worker whose buffers are bounded.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

from meshd.worker.log import log

if TYPE_CHECKING:
    from meshd.worker.context import WorkerContext

NO_KEEP_ALIVE = 0.95
REFUSE = 0.98
COUNT_UP_TO = 256
"""Connections up to which descriptors are counted; beyond, the kernel's list costs too much."""


class Overload:
    """``level``: 0, 1 = no keep-alive, 2 = refuse new requests."""

    def __init__(self, ctx: WorkerContext) -> None:
        self._ctx = ctx
        self.level = 0
        self._others = 0
        """Descriptors that are no connection, when they were last counted."""

    def sweep(self) -> None:
        """Judge anew; called once a second."""
        used, most = self._descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        level = (used >= most * NO_KEEP_ALIVE) + (used >= most * REFUSE)
        if level != self.level:
            log("warning", "overload", stage=level, descriptors=used, limit=most)
        self.level = level

    def _descriptors(self) -> int:
        connections = self._ctx.connections + self._ctx.upstream_connections()
        if connections <= COUNT_UP_TO or not self._others:
            try:
                self._others = sum(1 for _ in Path("/proc/self/fd").iterdir()) - connections
            except OSError:  # none left to open the list with
                self._others = self._others or 1
        return connections + self._others
