"""The control plane and Consul away, agents and workers killed: traffic goes on."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection

import pytest

from tests.e2e.client import Answer, Load, exchange
from tests.e2e.mesh import GENEROUS, REVIEWS, Mesh, wait_ready
from tests.meshd.agent.rig import Host, until

RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - headers: {{request: {{set: {{x-rule: "{value}"}}}}}}
    route: [{{destination: {{host: reviews}}}}]
"""

PROMISED = 1.0
"""Seconds within which a killed worker has a successor (issue 2, section 4)."""
each_discovery = pytest.mark.parametrize("whole", ["embedded", "consul"], indirect=True)


def kept(whole: Mesh) -> Callable[[], Answer]:
    """Calls of shop on one connection that stays open as long as meshd keeps it."""
    a = whole.hosts["a"]
    connection = HTTPConnection(a.address, a.proxy, timeout=15)
    return lambda: exchange(connection, f"http://reviews:{REVIEWS}/")


def saved(host: Host) -> bool:
    """The disk holds the rule and both instances of reviews; written at most every 5 s."""
    state = host.folder / "state"
    try:
        known = json.loads((state / "instances.json").read_text())["services"]
        return (
            len(known["default/reviews"]) == 2 and "before" in (state / "policy.json").read_text()
        )
    except (FileNotFoundError, KeyError):
        return False


def kill_agent(host: Host) -> None:
    host.stop(signal.SIGKILL)


def no_discovery(whole: Mesh) -> bool:
    """Every host says that discovery does not answer."""
    return not any(h.admin("/status")["discovery"]["connected"] for h in whole.hosts.values())


def converged(whole: Mesh, revision: int) -> bool:
    """`meshctl status` says: all connected, at this revision, nothing held."""
    hosts = whole.asked("status")["hosts"]
    return len(hosts) == len(whole.hosts) and all(
        host["connected"]
        and host["revision"] == revision
        and host["discovery"]["connected"]
        and not host["discovery"]["held"]
        for host in hosts
    )


@each_discovery
def test_without_control_plane_and_consul_traffic_continues_and_restarts(whole: Mesh) -> None:
    before = whole.apply(RULE.format(value="before"))
    a, b = whole.hosts["a"], whole.hosts["b"]
    pids = {name: host.pids() for name, host in whole.hosts.items()}
    for host in (a, b):
        until(partial(saved, host), f"{host.name} has written what it knows", GENEROUS)
    with Load(kept(whole), 1) as steady, Load(whole.call, 1) as fresh:
        if whole.consul is not None:
            whole.consul.stop()
            until(lambda: no_discovery(whole), "the hosts notice", GENEROUS)
            until(lambda: "away" in whole.ctl("status").out, "status says so", GENEROUS)
            assert whole.ctl("check").status == 1
        whole.rig.stop_server()
        assert whole.ctl("status").status == 5, "meshctl says that the server is unreachable"
        until(lambda: no_discovery(whole), "the hosts notice", GENEROUS)

        for host in (a, b):
            kill_agent(host)
        time.sleep(0.5)
        for host in (a, b):
            host.start()
        for host in (a, b):
            wait_ready(host)
    steady.assert_none_failed()
    fresh.assert_none_failed()
    print(f"longest gap {max(steady.gap, fresh.gap):.3f} s over two agents' restarts")
    assert {name: host.pids() for name, host in whole.hosts.items()} == pids, "adopted"
    assert [w["pid"] for w in a.admin("/status")["workers"]] == pids["a"]

    for host in (a, b):
        kill_agent(host)
        host.kill_workers()
    for host in (a, b):
        host.start()
    for host in (a, b):
        wait_ready(host)
    until(lambda: whole.call().status == 200, "traffic from disk", GENEROUS)
    assert whole.served_by(20).keys() == {"reviews-v1", "reviews-v2"}
    assert whole.call().json["headers"]["x-rule"] == "before"
    assert whole.revision("a") == before
    assert not a.admin("/status")["controlPlane"]["connected"]

    with Load(whole.call, 2) as healing:
        whole.rig.start_server()
        if whole.consul is not None:
            whole.consul.start()
        began = time.monotonic()
        until(lambda: converged(whole, before), "converged, and status says so", 2 * GENEROUS)
        print(f"converged {time.monotonic() - began:.1f} s after both were back")
        after = whole.apply(RULE.format(value="after"))
    healing.assert_none_failed()
    assert converged(whole, after)
    assert whole.call().json["headers"]["x-rule"] == "after"
    assert whole.ctl("check").status == 0


def test_a_killed_worker_of_the_called_host_costs_no_request(whole: Mesh) -> None:
    b, ids = whole.hosts["b"], itertools.count()

    def post() -> Answer:
        return whole.call(headers={"x-test-id": f"{next(ids)}"}, method="POST", body=b"once")

    with Load(kept(whole), 1, 0.002) as steady, Load(whole.call) as fresh, Load(post) as posts:
        time.sleep(0.5)
        took = replaced(b, b.pids()[0])
        time.sleep(1.0)
    print(f"a new worker after {took:.2f} s; longest gap {max(steady.gap, fresh.gap):.3f} s")
    assert took < 10 * PROMISED
    steady.assert_none_failed()
    fresh.assert_none_failed()
    ledgers = [whole.applications[name].ledger for name in ("reviews-v1", "reviews-v2")]
    times = [sum(ledger[f"{n}"] for ledger in ledgers) for n in range(next(ids))]
    print(f"{posts.good} POSTs answered, {len(posts.bad)} failed")
    assert max(times) == 1, "no POST was executed twice"
    assert sum(times) >= posts.good


def replaced(host: Host, victim: int) -> float:
    """Kill a worker with -9; seconds until the host has all of them ready again."""
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)

    def whole_again() -> bool:
        workers = host.admin("/status")["workers"]
        return all(w["phase"] == "ready" and w["pid"] not in (0, victim) for w in workers)

    until(whole_again, f"a new worker on {host.name}", 10 * PROMISED)
    return time.monotonic() - began


def test_connections_queue_while_the_only_worker_is_replaced(whole: Mesh) -> None:
    """Requests that come while nobody accepts are answered late, and none is lost."""
    a = whole.hosts["a"]
    for pid in a.pids():
        os.kill(pid, signal.SIGSTOP)
    with Load(whole.call, 16, 5.0) as queued:
        time.sleep(0.5)  # all 16 are connected by now: the kernel did that
        assert queued.good == 0 and not queued.bad
        for pid in a.pids():
            os.kill(pid, signal.SIGKILL)
        until(lambda: queued.good + len(queued.bad) == 16, "all answered", GENEROUS)
    print(f"the last of 16 queued requests was answered after {queued.gap:.2f} s")
    assert not queued.bad, queued.bad


def test_a_killed_worker_of_the_caller_costs_only_what_it_held(whole: Mesh) -> None:
    a = whole.hosts["a"]
    with Load(whole.call, 4, 0.002) as load:
        time.sleep(0.5)
        replaced(a, a.pids()[0])
        time.sleep(0.5)
    assert len(load.bad) <= 4, load.bad
    assert load.good > 100


def test_slow_connections_spread_over_the_workers(whole: Mesh) -> None:
    d = whole.join("d", 4, "default/wide", workers=4)
    whole.serve(d, "wide", "v1", 9400)
    whole.start()
    served = lambda: whole.call(caller="d").status == 200  # noqa: E731
    until(served, "host d calls reviews", GENEROUS)
    slow = [HTTPConnection(d.address, d.proxy, timeout=60) for _ in range(64)]
    for connection in slow:
        connection.request("GET", f"http://reviews:{REVIEWS}/?seconds=4")

    def shares() -> list[int]:
        return [w["connections"] for w in d.admin("/status")["workers"]]

    until(lambda: sum(shares()) >= 64, "64 connections", GENEROUS)
    print("connections of 4 workers:", shares())
    assert max(shares()) <= 32
    assert [c.getresponse().status for c in slow] == [200] * 64
    for connection in slow:
        connection.close()
