from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshctl.demo.processes import Processes, tail
from meshctl.errors import Failure

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline, "the child did not start"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_leaving_ends_children_and_their_children(tmp_path: Path) -> None:
    shell = ["/bin/sh", "-c", f"{sys.executable} -c 'import time; time.sleep(60)' & echo $!; wait"]
    with Processes() as processes:
        processes.start("shell", shell, tmp_path / "log")
        wait_for(tmp_path / "log", "\n")
        grandchild = int((tmp_path / "log").read_text())
        assert alive(grandchild)
    deadline = time.monotonic() + 5  # killed, but the kernel ends it when it is next scheduled
    while alive(grandchild):
        assert time.monotonic() < deadline, "the grandchild lives on"
        time.sleep(0.01)


def test_a_child_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshctl.demo.processes.GRACE", 0.1)
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN);" + SLEEP[-1]
    with Processes() as processes:
        processes.start("stubborn", [sys.executable, "-c", stubborn], tmp_path / "log")
        wait_for(tmp_path / "log", "up")
        started = time.monotonic()
    assert time.monotonic() - started < 5


def test_a_child_that_ended_is_reported_with_its_log(tmp_path: Path) -> None:
    with Processes() as processes:
        processes.start("broken", ["/bin/sh", "-c", "echo no such key; exit 3"], tmp_path / "log")
        deadline = time.monotonic() + 10
        with pytest.raises(Failure, match="broken ended with status 3") as caught:
            while time.monotonic() < deadline:
                processes.check()
                time.sleep(0.01)
        assert caught.value.problems == ("broken: no such key",)


def test_kill_9_of_the_starter_takes_its_children_along(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from meshctl.demo.processes import Processes
processes = Processes()
processes.start("child", {SLEEP!r}, Path({str(tmp_path / "log")!r}))
(child, _), = processes._running.values()
print(child.pid, flush=True)
time.sleep(60)
"""
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    child = int(starter.stdout.readline())
    wait_for(tmp_path / "log", "up")
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)
    starter.stdout.close()


def test_a_parent_that_is_gone_starts_nothing(tmp_path: Path) -> None:
    import meshctl.demo.launch as launch

    command = [
        sys.executable,
        "-I",
        "-S",
        launch.__file__,
        "1",
        sys.executable,
        "-c",
        "print('ran')",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert os.getpid() != 1


def test_the_tail_of_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == []
