from __future__ import annotations

import socket
from pathlib import Path

from meshd.agent.notify import Notifier


def test_states_arrive_as_one_datagram(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        Notifier({"NOTIFY_SOCKET": path}, 1).send("READY=1", "STATUS=3 workers")
        assert server.recv(100) == b"READY=1\nSTATUS=3 workers"


def test_the_abstract_namespace_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0baremesh-notify-test")
        Notifier({"NOTIFY_SOCKET": "@baremesh-notify-test"}, 1).send("STOPPING=1")
        assert server.recv(100) == b"STOPPING=1"


def test_a_gone_systemd_is_no_error(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, 1).send("READY=1")
    Notifier({}, 1).send("READY=1")
