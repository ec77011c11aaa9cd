"""``make soak``: 5 GB each way over each protocol, then a million short requests.

About half an hour on two cores.  ``ARGS="--gigabytes 1 --requests 100000"`` is less,
``ARGS="--protocol h2"`` one protocol's bodies only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import PROTOCOLS, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of each body")
    parser.add_argument("--requests", type=int, default=1_000_000, help="short ones, all protocols")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="one protocol's bodies only")
    chosen = parser.parse_args()
    say = lambda line: print(line, flush=True)  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            with soak(Path(folder), say) as running:
                only = (chosen.protocol,) if chosen.protocol else PROTOCOLS
                running.bodies(int(chosen.gigabytes * 1e9), only)
                if not chosen.protocol:
                    running.requests(chosen.requests)
        except AssertionError as error:
            print(f"soak failed: {error}", file=sys.stderr)
            return 1
    say("all promises kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
