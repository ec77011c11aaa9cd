"""The node process of the peer tests: `node/main.js` and how to ask it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from threading import Lock
from typing import Any

from tests.parts.find import NODE_PACKAGES, node_binary

SCRIPT = Path(__file__).parent / "node" / "main.js"


class Node:
    """One process; questions are answered one at a time, servers run beside."""

    def __init__(self) -> None:
        # NODE_PATH: the script lies in the repository, its packages in .parts.
        environment = {**os.environ, "NODE_PATH": str(NODE_PACKAGES / "node_modules")}
        self._process = subprocess.Popen(
            [node_binary(), str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._numbers = itertools.count()
        self._lock = Lock()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer of a command; AssertionError with node's own error."""
        with self._lock:
            question = {"id": next(self._numbers), "do": do, **arguments}
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, f"node ended: {self._process.poll()}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
