"""A mesh that changes all the time under load: 300 revisions, and every certificate.

The leaves live one minute, the shortest that mesh-ca issues, and are renewed at
half of it.  One stream of requests runs through all tests of this module.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from tests.e2e.client import Load, exchange
from tests.e2e.mesh import REVIEWS, Mesh, mesh, reviews_mesh
from tests.e2e.test_outages_real import RULE
from tests.meshd.agent.rig import Host, until

REVISIONS = 300
RENEWED_WITHIN = 60.0
"""Seconds: at the latest when the first certificates would have ended."""


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh(tmp_path_factory.mktemp("brief"), leaf="60s") as whole:
        reviews_mesh(whole)
        yield whole


@pytest.fixture(scope="module")
def load(brief: Mesh) -> Iterator[tuple[Load, Load]]:
    """Calls on new connections and on one that is kept."""
    a = brief.hosts["a"]
    kept = HTTPConnection(a.address, a.proxy, timeout=15)
    target = f"http://reviews:{REVIEWS}/"
    with (
        Load(brief.call, 1, 0.05) as fresh,
        Load(lambda: exchange(kept, target), 1, 0.05) as steady,
    ):
        yield fresh, steady


def serials(host: Host) -> set[str]:
    return {c["serial"] for c in host.admin("/config/certs")["certs"]}


def test_many_revisions_converge_and_no_request_sees_it(
    brief: Mesh, load: tuple[Load, Load]
) -> None:
    began = time.monotonic()
    for number in range(1, REVISIONS + 1):
        last = brief.rig.apply(RULE.format(value=number))
    applied = time.monotonic()
    brief.wait_for_revision(last)
    print(
        f"{REVISIONS} revisions in {applied - began:.1f} s, "
        f"converged {time.monotonic() - applied:.2f} s after the last"
    )
    hosts = brief.asked("status")["hosts"]
    assert {host["revision"] for host in hosts} == {last}
    assert all(host["accepted"] for host in hosts)
    assert brief.call().json["headers"]["x-rule"] == str(REVISIONS)
    for stream in load:
        stream.assert_none_failed()


def test_all_certificates_are_renewed_and_no_request_sees_it(
    brief: Mesh, load: tuple[Load, Load]
) -> None:
    first = {name: serials(host) for name, host in brief.hosts.items()}
    peers = whose(brief)
    began = time.monotonic()
    for name, host in brief.hosts.items():
        until(lambda h=host, n=name: first[n].isdisjoint(serials(h)), f"{name}", RENEWED_WITHIN)  # type: ignore[misc]
    print(f"all of {sum(map(len, first.values()))} renewed within {time.monotonic() - began:.1f} s")
    for stream in load:
        stream.assert_none_failed()
    until(lambda: whose(brief) == peers, "the callers are who they were")
    lives = [c["notAfter"] for h in brief.hosts.values() for c in h.admin("/config/certs")["certs"]]
    assert min(lives) - time.time() > 10
    assert brief.metric("a", "meshd_certificate_renewals_total") >= 2


def whose(brief: Mesh) -> str:
    """The caller's identity, as the application is told."""
    told: str = brief.call().json["headers"]["x-forwarded-client-cert"]
    return told.rpartition("URI=")[2]
