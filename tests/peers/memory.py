"""What processes hold: memory, descriptors."""

from __future__ import annotations

from pathlib import Path

KIB = 1024


def resident(pid: int) -> int:
    """Proportional set size in bytes: shared pages count for each process's share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * KIB
    raise ValueError(f"no Pss of process {pid}")


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
