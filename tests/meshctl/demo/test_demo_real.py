"""The demo, cut off in the middle (tests/e2e runs it to its end)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MESHCTL = Path(sys.executable).with_name("meshctl")


def processes_of(folder: Path) -> list[str]:
    """Command lines of everything that was started for this folder's demo."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder) in line or f"DEMO_UNDER_TEST={folder}".encode() in environ:
                found.append(line)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: Unix sockets are in it."""
    path = Path(f"/tmp/demo-test-{os.getpid()}")
    yield path
    assert not processes_of(path), "processes are left"
    subprocess.run(["rm", "-rf", str(path)], check=True)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(MESHCTL), "demo", "--dir", str(folder), *arguments]
    environ = {**os.environ, "DEMO_UNDER_TEST": str(folder)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_cut_off_it_leaves_no_process(folder: Path, number: signal.Signals) -> None:
    demo = start(folder)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "Three hosts" in line:
            break
    assert len(processes_of(folder)) >= 15, "authority, agents, workers and programs run"
    demo.send_signal(number)
    demo.wait(20)
    demo.stdout.close()
    deadline = time.monotonic() + 10
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
