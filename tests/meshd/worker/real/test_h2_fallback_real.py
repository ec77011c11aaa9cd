"""A host without ngh2: workers carry HTTP/2 with the other engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from h2peer import Client, Server
from hosts import Hosts, echo, get

ROOT = Path(__file__).parents[4]
MISSING = 'raise ImportError("there is no ngh2 on this host")\n'


@pytest.fixture(autouse=True)
def poor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers started from now on cannot import ngh2."""
    package = tmp_path / "missing" / "ngh2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MISSING)
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{ROOT}")


@pytest.mark.parametrize("protocol", ["HTTP2", "HTTP"])
def test_requests_and_bodies_go_through(hosts: Hosts, protocol: str) -> None:
    hosts.use(echo if protocol == "HTTP" else lambda conn: Server(conn)())
    hosts.speak(protocol)
    with hosts.connect() as sock:
        client = Client(sock)
        answer = client.get("/a", fields=[("x-one", "1")])
        assert answer.status == 200 and answer.ended and b"x-one: 1" in answer.body
        body = b"x" * 300_000
        posted = client.get("/p", body=body, fields=[("content-length", "300000")])
        assert posted.status == 200 and posted.body.endswith(body)
    for side in (hosts.near, hosts.far):
        assert "ngh2" not in Path(f"/proc/{side.process.pid}/maps").read_text()
    if protocol == "HTTP2":
        assert hosts.request(get("/b"))[0].startswith(b"HTTP/1.1 200 OK\r\n")
