from __future__ import annotations

import pytest

from bench import processes
from bench.processes import free_ports


def test_no_port_is_given_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_given", set())
    ports = [port for _ in range(20) for port in free_ports(3)]
    assert len(set(ports)) == 60
