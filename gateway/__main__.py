"""``python -m gateway`` is the ``mesh-gateway`` command."""

from __future__ import annotations

from gateway.cli import main

main()
