"""`meshctl demo` as a user runs it: what it shows, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Load, fetch
from tests.e2e.processes import Process, alive, descendants, kill
from tests.meshd.agent.rig import until

ENDS_WITHIN = 180.0
"""Seconds; about 25 on an idle machine of two cores."""
GONE_WITHIN = 60.0
REVIEWS = "/api/v1/products/1/reviews"


class Demo:
    """One run in folders of its own; every process that it ever had is remembered."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.homes = {name: folder / name for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR")}
        self.cwd = folder / "cwd"
        for made in (self.cwd, *self.homes.values()):
            made.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.log = folder / "log"
        self.family: set[Process] = set()
        command = [sys.executable, "-m", "meshctl", "demo", "--port", str(self.port), *arguments]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=self.cwd,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **{k: str(v) for k, v in self.homes.items()}},
            )

    def text(self) -> str:
        return self.log.read_text()

    def look(self) -> bool:
        """Remember the processes of this moment; True while the demo runs."""
        self.family |= descendants(self.process.pid)
        return self.process.poll() is None

    def wait_for(self, text: str) -> None:
        def shown() -> bool:
            assert self.look(), self.text()
            return text in self.text()

        until(shown, f"the demo says {text!r}", ENDS_WITHIN)

    def assert_nothing_left(self) -> None:
        """No process, and no file but those below the demo's own folder."""
        assert len(self.family) > 10, "an authority, four agents with workers, seven programs"
        gone = lambda: not any(map(alive, self.family))  # noqa: E731
        until(gone, "all processes of the demo have ended", GONE_WITHIN)
        assert [entry.name for entry in self.cwd.iterdir()] == [".demo"]
        for home in self.homes.values():
            assert list(home.iterdir()) == []
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", self.port)) != 0

    def end(self) -> None:
        self.look()
        self.process.kill()
        self.process.wait()
        for process in self.family:
            kill(process)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for Unix sockets in it."""
    return tmp_path_factory.mktemp("d")


@pytest.fixture
def demo(short: Path, request: pytest.FixtureRequest) -> Iterator[Demo]:
    running = Demo(short, *getattr(request, "param", ()))
    yield running
    running.end()


@pytest.mark.parametrize("demo", [["--once"], ["--once", "--consul"]], indirect=True)
def test_once_tells_the_whole_story_and_leaves_nothing(demo: Demo) -> None:
    began = time.monotonic()
    while demo.look():
        assert time.monotonic() - began < ENDS_WITHIN, demo.text()
        time.sleep(0.2)
    print(f"{time.monotonic() - began:.1f} s, {len(demo.family)} processes")
    assert demo.process.returncode == 0, demo.text()
    assert "✗" not in demo.text()
    assert "\x1b" not in demo.text(), "a file gets plain lines"
    assert demo.text().count("✓") == 10, demo.text()
    demo.assert_nothing_left()


def test_it_stays_up_serves_and_sigterm_leaves_nothing(demo: Demo) -> None:
    demo.wait_for("It stays up until Ctrl-C")
    page = fetch("127.0.0.1", demo.port, "/productpage")
    assert page.status == 200 and b"<html" in page.body
    for user, version in (("test-user", "v2"), ("somebody", "v1")):
        assert [version_for(demo, user) for _ in range(50)] == [version] * 50
    with Load(lambda: fetch("127.0.0.1", demo.port, "/productpage"), 1) as load:
        time.sleep(1.0)
    load.assert_none_failed(5)
    demo.look()
    demo.process.terminate()
    began = time.monotonic()
    assert demo.process.wait(GONE_WITHIN) == 0
    print(f"ended {time.monotonic() - began:.1f} s after SIGTERM")
    demo.assert_nothing_left()


def version_for(demo: Demo, user: str) -> str:
    """Which version of reviews a user got; the failure's text where none answered."""
    answer = fetch("127.0.0.1", demo.port, REVIEWS, {"end-user": user})
    return str(answer.json["served_by"]["version"]) if answer.status == 200 else str(answer)


def test_kill_9_leaves_nothing(demo: Demo) -> None:
    demo.wait_for("✓ Bookinfo behind the gateway")
    demo.look()
    demo.process.send_signal(signal.SIGKILL)
    demo.process.wait()
    demo.assert_nothing_left()
