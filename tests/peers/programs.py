"""curl, h2load, nghttp and others as programs of their own, and what they said."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.parts.find import program

PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode("latin-1") + self.err.decode("latin-1")


def run(name: str, *arguments: str, data: bytes = b"") -> Said:
    """A program's end and output; AssertionError where it is missing."""
    path = program(name)
    assert path is not None, f"no {name}: run 'python3 tests/parts/install.py'"
    done = subprocess.run(
        [path, *arguments], input=data, capture_output=True, timeout=PATIENCE, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class Download:
    """What curl got at last.  ``version`` is HTTP's: "1.1" or "2"."""

    version: str
    code: int
    head: str
    body: bytes


def curl(folder: Path, *arguments: str) -> Download:
    """One transfer; AssertionError with curl's own words if it failed."""
    body, head = folder / "curl-body", folder / "curl-head"
    written = "%{http_version} %{http_code}\\n"
    options = ("-sS", "-o", str(body), "-D", str(head), "-w", written, "--max-time", str(PATIENCE))
    body.write_bytes(b"")
    said = run("curl", *options, *arguments)
    assert said.status == 0, said.text
    results = set(said.out.decode().splitlines())
    assert len(results) == 1, f"several transfers, unlike each other: {results}"
    version, code = results.pop().split()
    told = head.read_bytes().decode("latin-1").lower()
    return Download(version, int(code), told, body.read_bytes())


def h2load(*arguments: str) -> dict[str, int]:
    """The totals of a run: total, succeeded, failed, errored, timeout."""
    said = run("h2load", *arguments)
    line = re.search(r"^requests: (.*)$", said.text, re.MULTILINE)
    assert said.status == 0 and line is not None, said.text
    return {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", line[1])}


@dataclass(frozen=True, slots=True)
class Frame:
    """A line of `nghttp -v`: ``direction`` is send or recv."""

    direction: str
    kind: str
    length: int
    flags: int
    stream: int


_FRAME = re.compile(
    r"\] (send|recv) (\w+) frame <length=(\d+), flags=0x([0-9a-f]+), stream_id=(\d+)>"
)


def nghttp(*arguments: str) -> tuple[list[Frame], str]:
    """The frames of a session, in order, and everything that nghttp printed."""
    said = run("nghttp", "-v", "-n", *arguments)
    assert said.status == 0, said.text
    frames = [
        Frame(direction, kind, int(length), int(flags, 16), int(stream))
        for direction, kind, length, flags, stream in _FRAME.findall(said.text)
    ]
    return frames, said.text
