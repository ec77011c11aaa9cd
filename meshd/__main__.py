"""``python -m meshd`` is the ``meshd`` command."""

from __future__ import annotations

from meshd.cli import main

main()
