"""The example's package is run from its own folder, as on a host."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "bookinfo"))
