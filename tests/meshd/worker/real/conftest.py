"""Real workers: `rig` and `hosts` beside this file are importable by the tests here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from hosts import hosts
from tcp import tcp

__all__ = ["hosts", "tcp"]
