"""The agent with a real policy server, real workers and a real application."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.meshd.agent.rig import Application, Host, Rig, free_port, get, until

ADDRESS = "127.0.0.21"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def start_host(rig: Rig, application: Application, name: str = "a") -> tuple[Host, int]:
    """A host with the service ``web``, ready; returns it and the service port."""
    host = rig.host(name, ADDRESS)
    port = free_port(ADDRESS)
    host.declare("web", port, application.port)
    rig.token(host, "default/web")
    host.start()
    host.wait_ready()
    until(lambda: host.call(f"web:{port}")[0] == 200, f"web answers\n{host.log_tail()}")
    return host, port


class Load:
    """Requests through the proxy until `stop`, one after another; every failure kept."""

    def __init__(self, host: Host, port: int) -> None:
        self.good, self.bad = 0, list[str]()
        self._ended = Event()
        self._thread = Thread(target=self._run, args=(host, port))
        self._thread.start()

    def _run(self, host: Host, port: int) -> None:
        while not self._ended.is_set():
            status, body = host.call(f"web:{port}")
            if status == 200:
                self.good += 1
            else:
                self.bad.append(f"{status} {body}")
            time.sleep(0.005)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


def test_a_host_joins_serves_and_keeps_its_keys_private(rig: Rig) -> None:
    application = rig.application("web")
    host, port = start_host(rig, application)
    status, body = host.call(f"web:{port}")
    assert (status, json.loads(body)["name"]) == (200, "web")
    state = host.folder / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    files = [p for p in state.rglob("*") if p.is_file()]
    assert {p.name for p in files} >= {"host.pem", "default~web.pem", "membership.json"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
    shown = host.admin("/status")
    assert shown["missing"] == []
    assert shown["admitted"] == ["default/web"]
    names = {c["identity"] for c in shown["certificates"]}
    assert names == {"spiffe://cluster.local/host/a", "spiffe://cluster.local/ns/default/sa/web"}
    metrics = host.probe("/metrics")[1]
    assert "meshd_ready 1.0" in metrics
    assert "istio_requests_total{" in metrics


def test_killed_worker_and_killed_agent_cost_no_request(rig: Rig) -> None:
    host, port = start_host(rig, rig.application("web"))
    before = host.pids()
    load = Load(host, port)
    try:
        time.sleep(0.3)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: before[0] not in host.pids() and len(host.pids()) == 2, "a new worker")
        until(host.ready, "ready again")
        pids = host.pids()
        host.stop(signal.SIGKILL)
        time.sleep(0.5)
        host.start()
        host.wait_ready()
        assert host.pids() == pids
        assert [w["pid"] for w in host.admin("/status")["workers"]] == pids
    finally:
        load.stop()
    # A request that was in the killed worker's hands may fail; a queued one may not.
    assert len(load.bad) <= 1, load.bad
    assert load.good > 100


def saved(host: Host) -> bool:
    """The disk holds the rule and the instance; written at most every 5 s."""
    state = host.folder / "state"
    known = json.loads((state / "instances.json").read_text())["services"]
    return "default/web" in known and "ruled" in (state / "policy.json").read_text()


def test_without_control_plane_everything_starts_from_disk(rig: Rig) -> None:
    host, port = start_host(rig, rig.application("web"))
    revision = rig.apply(VIRTUAL_SERVICE.format(value="one"))
    until(lambda: host.admin("/status")["revision"] == revision, "revision live")
    until(lambda: saved(host), "the host has written what it knows")
    rig.stop_server()
    host.stop(signal.SIGKILL)
    host.kill_workers()
    host.start()
    host.wait_ready()
    until(lambda: host.call(f"web:{port}")[0] == 200, "served from disk")
    assert json.loads(host.call(f"web:{port}")[1])["headers"]["x-rule"] == "one"
    assert not host.admin("/status")["controlPlane"]["connected"]
    rig.start_server()
    until(lambda: host.admin("/status")["controlPlane"]["connected"], "connected again")
    revision = rig.apply(VIRTUAL_SERVICE.format(value="two"))
    until(lambda: host.admin("/status")["revision"] == revision, "converged")
    assert json.loads(host.call(f"web:{port}")[1])["headers"]["x-rule"] == "two"


VIRTUAL_SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: [web]
  http:
  - name: ruled
    headers: {{request: {{set: {{x-rule: "{value}"}}}}}}
    route: [{{destination: {{host: web}}}}]
"""


def test_the_server_asks_and_the_host_answers_from_its_snapshot(rig: Rig) -> None:
    host, _ = start_host(rig, rig.application("web"))
    revision = rig.apply(VIRTUAL_SERVICE.format(value="one"))
    until(lambda: host.admin("/status")["revision"] == revision, "revision live")
    routes = rig.get("/v1/hosts/a/config", {"what": "routes"})["routes"]
    assert "ruled" in [row["name"] for row in routes]
    certs = rig.get("/v1/hosts/a/config", {"what": "certs"})["certs"]
    assert {c["name"] for c in certs} == {"host", "default/web"}
    for what in ("clusters", "endpoints", "listeners"):
        assert host.admin(f"/config/{what}")[what], what


def test_a_broken_service_file_is_refused_with_its_line_and_nothing_changes(rig: Rig) -> None:
    host, port = start_host(rig, rig.application("web"))
    (host.folder / "services.d" / "shop.yaml").write_text("name: shop\nprots: []\n")
    refused = host.admin("/reload", "POST")["error"]["message"]
    assert "shop.yaml:2:1" in refused
    assert 'did you mean "ports"' in refused
    assert host.call(f"web:{port}")[0] == 200
    (host.folder / "services.d" / "shop.yaml").unlink()
    assert host.admin("/reload", "POST") == {"reloaded": True}


def test_a_service_without_entitlement_is_refused_and_the_rest_serves(rig: Rig) -> None:
    host, port = start_host(rig, rig.application("web"))
    host.declare("bank", free_port(ADDRESS), rig.application("bank").port, user="nobody")
    assert host.process is not None
    host.process.send_signal(signal.SIGHUP)
    refused = until(lambda: host.admin("/status")["refused"], "refusal")
    assert refused[0]["service"] == "default/bank"
    assert "meshctl token create" in refused[0]["remedy"]
    assert any("default/bank" in line for line in host.admin("/status")["missing"])
    assert host.call(f"web:{port}")[0] == 200
    assert host.call("bank:80")[0] in (404, 503)
    # An operator entitles the host: no restart, no reload.
    rig.token(host, "default/bank")
    until(lambda: not host.admin("/status")["refused"], "admitted")


def test_a_second_agent_on_the_same_folder_says_why_it_ends(rig: Rig) -> None:
    host, _ = start_host(rig, rig.application("web"))
    first = host.process
    assert first is not None
    host.start()
    second = host.process
    assert second is not None
    assert second.wait(10) == 4
    assert f"another agent (process {first.pid})" in (host.folder / "log").read_text()
    host.process = first


def test_own_workers_end_with_the_agent_even_when_it_is_killed(rig: Rig) -> None:
    host = rig.host("a", ADDRESS)
    host.declare("web", free_port(ADDRESS), rig.application("web").port)
    rig.token(host, "default/web")
    for number in (signal.SIGKILL, signal.SIGTERM):
        host.start("--own-workers")
        host.wait_ready()
        pids = host.pids()
        assert len(pids) == 2
        host.stop(number)
        until(lambda pids=pids: not any(alive(pid) for pid in pids), "workers ended")  # type: ignore[misc]


def test_callers_leave_a_host_before_it_is_shut_down(rig: Rig) -> None:
    caller, port = start_host(rig, rig.application("one"))
    host = rig.host("b", "127.0.0.22")
    host.declare("web", port, rig.application("two").port)
    rig.token(host, "default/web")
    host.start("--own-workers")
    host.wait_ready()

    def answered_by() -> str:
        return caller.call(f"web:{port}")[1]

    until(lambda: '"two"' in answered_by(), "both hosts serve")
    load = Load(caller, port)
    host.stop()
    load.stop()
    assert load.good > 20 and not load.bad
    assert all('"one"' in answered_by() for _ in range(10))
    # Ended within `drain`, and the services were taken out before the workers drained.
    left, drained, ended = (host.events(e)[0]["ts"] for e in ("leaving", "draining", "agent_ended"))
    assert left < drained < ended


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_plaintext_port_is_served_beside_mtls(rig: Rig) -> None:
    _, port = start_host(rig, rig.application("web"))
    assert get(ADDRESS, port, "/")[0] == 200
