"""`mesh-ca` as its users run it: as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ca.client import PolicyClient

Start = Callable[..., "tuple[subprocess.Popen[str], dict[str, Any]]"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ca.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        command = [sys.executable, "-c", "from ca.cli import main; main()", "serve", *arguments]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        running.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            record: dict[str, Any] = json.loads(line)
            if record["event"] == "listening":
                return process, record
        raise AssertionError("mesh-ca ended before it listened")

    yield begin
    for process in running:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def stop(process: subprocess.Popen[str], number: signal.Signals) -> int:
    process.send_signal(number)
    return process.wait(10)


def test_init_twice_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = run("init", "--state-dir", str(state), "--trust-domain", "td", "--name", "ca.td")
    held = {p: p.read_bytes() for p in state.rglob("*") if p.is_file() and "policy" not in p.name}
    second = run("init", "--state-dir", str(state), "--name", "ca.td")
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout == second.stdout and "authority of td" in first.stdout
    assert held == {p: p.read_bytes() for p in held}
    assert {oct(p.stat().st_mode & 0o777) for p in held} == {"0o600"}
    assert 'address: "ca.td:15012"' in (state / "operator" / "operator.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["serve", "--state-dir", "{}/none"], 3, "mesh-ca init"),
        (["serve", "--config", "{}/none.yaml"], 2, "--config"),
        (["serve", "--state-dir", "{}/s", "--leaf-lifetime", "1s"], 2, "24h"),
        (["init", "--state-dir", "{}/file"], 3, "--state-dir"),
        (["init", "--state-dir", "{}/s", "--trust-domain", "A B"], 2, "trust domain"),
        (["init", "--state-dir", "{}/s", "--operator", "../x"], 3, "operator"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_faults_have_a_status_and_a_remedy(
    tmp_path: Path, arguments: list[str], status: int, word: str
) -> None:
    (tmp_path / "file").touch()
    result = run(*(argument.format(tmp_path) for argument in arguments))
    assert result.returncode == status, result.stderr
    assert word in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "none").exists()


def test_an_address_in_use(tmp_path: Path) -> None:
    run("init", "--state-dir", str(tmp_path / "s"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("serve", "--state-dir", str(tmp_path / "s"), "--listen", address)
    assert result.returncode == 4 and "--listen" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_until_a_signal(tmp_path: Path, start: Start, number: signal.Signals) -> None:
    state = tmp_path / "state"
    run("init", "--state-dir", str(state), "--trust-domain", "td")
    process, listening = start("--state-dir", str(state), "--listen", "127.0.0.1:0")
    folder = state / "operator"
    client = PolicyClient(
        f"127.0.0.1:{listening['port']}",
        roots=(folder / "roots.pem").read_text(),
        certificate=folder / "cert.pem",
        key=folder / "key.pem",
        trust_domain="td",
    )
    async with client:
        assert (await client.get("/v1/status"))["mesh"]["trustDomain"] == "td"
        assert stop(process, number) == 0


async def test_what_was_applied_outlives_a_kill(tmp_path: Path, start: Start) -> None:
    state = tmp_path / "state"
    run("init", "--state-dir", str(state))
    folder = state / "operator"
    process, listening = start("--state-dir", str(state), "--listen", "127.0.0.1:0")

    def client() -> PolicyClient:
        return PolicyClient(
            f"127.0.0.1:{listening['port']}",
            roots=(folder / "roots.pem").read_text(),
            certificate=folder / "cert.pem",
            key=folder / "key.pem",
        )

    text = (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        "metadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n"
    )
    async with client() as one:
        body = {"documents": [{"source": "a.yaml", "text": text}]}
        assert (await one.post("/v1/apply", body))["revision"] == 1
    stop(process, signal.SIGKILL)
    process, listening = start("--state-dir", str(state), "--listen", "127.0.0.1:0")
    async with client() as two:
        assert (await two.get("/v1/resources"))["revision"] == 1


def test_systemd_is_told(tmp_path: Path, start: Start) -> None:
    run("init", "--state-dir", str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        process, _ = start(
            "--state-dir", str(tmp_path / "s"), "--listen", "127.0.0.1:0",
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        )  # fmt: skip
        assert manager.recv(100) == b"READY=1"
        stop(process, signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"


def test_one_more_operator(tmp_path: Path) -> None:
    state, out = tmp_path / "s", tmp_path / "alice"
    run("init", "--state-dir", str(state))
    assert run("operator", "alice", "--state-dir", str(state), "--out", str(out)).returncode == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "cert.pem",
        "key.pem",
        "operator.yaml",
        "roots.pem",
    ]
