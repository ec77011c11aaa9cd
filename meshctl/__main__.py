from __future__ import annotations

from meshctl.cli import main

if __name__ == "__main__":
    main()
