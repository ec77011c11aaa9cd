"""PeerAuthentication and the client's TLS mode, seen from both ports of a service."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from tests.e2e.application import Application
from tests.e2e.client import exchange, fetch
from tests.e2e.mesh import REVIEWS, Mesh
from tests.meshd.agent.rig import until

PEERS = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: reviews}}
spec: {{mtls: {{mode: {mode}}}}}
"""
CLIENTS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews}}
spec:
  host: reviews
  trafficPolicy: {{tls: {{mode: {mode}}}}}
"""


@pytest.fixture(autouse=True)
def _clear(whole: Mesh) -> Iterator[None]:
    yield
    whole.clear()


def plain(whole: Mesh) -> int:
    """Status of a plaintext request from outside the mesh; 0: closed or reset."""
    return fetch(whole.hosts["b"].address, REVIEWS).status


def security(whole: Mesh) -> tuple[float, float]:
    """Requests that b and c counted as (mutual TLS, plaintext)."""
    counted = [
        sum(
            whole.metric(
                host, "istio_requests_total", reporter="destination",
                connection_security_policy=policy,
            )
            for host in ("b", "c")
        )
        for policy in ("mutual_tls", "none")
    ]  # fmt: skip
    return counted[0], counted[1]


def test_the_plain_port_follows_peer_authentication(whole: Mesh) -> None:
    assert plain(whole) == 200, "PERMISSIVE is the default"
    whole.apply(PEERS.format(mode="STRICT"))
    until(lambda: plain(whole) == 0, "STRICT closes the plain port")
    assert whole.served_by(10).keys() <= {"reviews-v1", "reviews-v2"}
    whole.apply(PEERS.format(mode="PERMISSIVE"))
    until(lambda: plain(whole) == 200, "PERMISSIVE opens it again")
    whole.apply(PEERS.format(mode="DISABLE"))
    until(lambda: plain(whole) == 200, "DISABLE leaves it open")


def test_a_destination_rule_can_switch_tls_off(whole: Mesh) -> None:
    mutual, none = security(whole)
    whole.served_by(10)
    assert security(whole) == (mutual + 10, none), "automatic mTLS"
    whole.apply(CLIENTS.format(mode="DISABLE"))
    mutual, none = security(whole)
    assert whole.served_by(10).keys() <= {"reviews-v1", "reviews-v2"}
    assert security(whole) == (mutual, none + 10), "plaintext, by the operator's wish"
    whole.apply(CLIENTS.format(mode="ISTIO_MUTUAL"))
    mutual, none = security(whole)
    whole.served_by(10)
    assert security(whole) == (mutual + 10, none)


def test_strict_also_ends_connections_that_are_open(whole: Mesh) -> None:
    connection = HTTPConnection(whole.hosts["b"].address, REVIEWS, timeout=15)
    assert exchange(connection, "/").status == 200
    whole.apply(PEERS.format(mode="STRICT"))
    refused = exchange(connection, "/")
    assert refused.status == 403
    assert b"plaintext_under_strict" in refused.body
    assert connection.sock is None or exchange(connection, "/").status == 0
    assert whole.metric("b", "meshd_refusals_total", reason="plaintext_under_strict") >= 1
    assert "plaintext_under_strict" in whole.log("b")


def test_a_caller_without_tls_and_a_strict_service_do_not_meet(whole: Mesh) -> None:
    whole.apply(CLIENTS.format(mode="DISABLE") + "---" + PEERS.format(mode="STRICT"))
    # Connections that were open are told 403 first, each once.
    until(lambda: all(whole.call().status == 503 for _ in range(5)), "503 every time")
    answer = whole.call()
    assert b"request id" in answer.body, "a short body that names the reason and the request"


def test_an_application_that_moved_is_found_on_open_connections(whole: Mesh) -> None:
    """Callers' pooled connections must not lead to the port that was left."""
    assert whole.served_by(20).keys() == {"reviews-v1", "reviews-v2"}
    b, moved = whole.hosts["b"], Application("reviews-moved")
    whole.applications["reviews-v1"].close()
    whole.applications["reviews-v1"] = moved
    whole.serve(b, "reviews", "v1", REVIEWS)
    assert b.admin("/reload", "POST") == {"reloaded": True}
    until(lambda: "reviews-moved" in whole.served_by(6), "the new port is used")
    assert whole.served_by(20).keys() == {"reviews-moved", "reviews-v2"}
