"""The worker's own log: one JSON object a line on standard error."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime


def log(level: str, event: str, **fields: object) -> None:
    """Write one line; never raises (a full disk must not stop traffic)."""
    stamp = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
    line = {"ts": stamp, "level": level, "event": event, **fields}
    try:
        sys.stderr.write(json.dumps(line, default=str) + "\n")
        sys.stderr.flush()
    except OSError:
        pass
