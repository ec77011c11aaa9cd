"""Between two hosts: TLS 1.3, and nothing of what was said can be read."""

from __future__ import annotations

import os

import pytest

from tests.e2e.client import fetch
from tests.e2e.mesh import REVIEWS, Mesh
from tests.e2e.wire import APPLICATION_DATA, TLS_1_3, Capture, records, server_version

needs_root = pytest.mark.skipif(
    os.getuid() != 0 and "CI" not in os.environ, reason="needs root: a packet socket"
)
MARKS = (b"a-header-that-nobody-sees", b"a-body-that-nobody-sees")
EVERYWHERE = (b"HTTP/1.1", b"x-baremesh-source", b"spiffe://", b"BEGIN CERTIFICATE")


@needs_root
def test_between_hosts_there_is_tls_1_3_and_no_plaintext(whole: Mesh) -> None:
    b = whole.hosts["b"]
    for host in ("b", "c"):  # only new connections show their handshake
        whole.hosts[host].kill_workers()
    whole.start()
    with Capture(b.mesh) as seen:
        for _ in range(20):
            answer = whole.call(headers={"x-mark": MARKS[0].decode()}, method="POST", body=MARKS[1])
            assert answer.json["body"] == MARKS[1].decode()
            assert answer.json["headers"]["x-mark"] == MARKS[0].decode()
    streams = seen.streams()
    answers = [data for flow, data in streams.items() if flow[1] == b.mesh]
    assert answers, "the capture saw the mesh port"
    assert [server_version(data) for data in answers] == [TLS_1_3] * len(answers)
    for flow, data in streams.items():
        kinds = {kind for kind, _ in records(data)}
        assert APPLICATION_DATA in kinds, flow
        assert not [mark for mark in (*MARKS, *EVERYWHERE) if mark in data], flow


@needs_root
def test_the_capture_would_see_plaintext(whole: Mesh) -> None:
    """The same marks on the plaintext port: what the test above looks for can be found."""
    b = whole.hosts["b"]
    with Capture(REVIEWS) as seen:
        fetch(b.address, REVIEWS, "/", {"x-mark": MARKS[0].decode()}, method="POST", body=MARKS[1])
    everything = b"".join(seen.streams().values())
    assert all(mark in everything for mark in MARKS)
