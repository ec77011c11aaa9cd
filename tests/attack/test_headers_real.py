"""What a caller says of itself: identity headers, hosts, paths, labels, log lines."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode

import pytest

from meshd.worker.series import MAX_FACTS
from tests.attack.conftest import PORT, Range
from tests.attack.peers import ask, pair_of, request, tls
from tests.attack.raw import OK, resident, statuses

FACTS = urlsafe_b64encode(b'{"workload":"admin","app":"admin"}').rstrip(b"=")
SPOOFED = (
    b"X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/default/sa/admin",
    b"x-forwarded-client-cert: URI=spiffe://cluster.local/operator/root",
    b"X-Baremesh-Source: " + FACTS,
    b"X-Baremesh-Destination: " + FACTS,
)


@pytest.mark.parametrize("listed", [b"", b"x-forwarded-client-cert, x-baremesh-source"])
def test_the_application_learns_the_caller_from_the_certificate_only(
    target: Range, listed: bytes
) -> None:
    target.app.forget()
    fields = (*SPOOFED, b"Connection: " + listed) if listed else SPOOFED
    lines = b"\r\n".join(fields)
    assert b"200" in target.say(
        b"GET /who HTTP/1.1\r\nHost: victim:%d\r\n%b\r\n\r\n" % (PORT, lines), seconds=0.3, want=1
    )
    assert b"200" in ask(target, pair_of(target.a, "default/shop"), *fields)
    for seen in target.app.seen:
        head = seen.lower()
        assert head.count(b"x-forwarded-client-cert:") == 1
        assert b"uri=spiffe://cluster.local/ns/default/sa/shop\r\n" in head
        assert b"admin" not in head and b"x-baremesh" not in head


def test_what_the_application_says_of_itself_stays_with_it(target: Range) -> None:
    target.app.answers[b"/lies"] = (
        b"HTTP/1.1 200 OK\r\nX-Baremesh-Destination: %b\r\nX-Baremesh-Source: %b\r\n"
        b"Content-Length: 2\r\n\r\nok" % (FACTS, FACTS),
    )
    assert b"x-baremesh" not in target.get("/lies").lower()
    with tls(target, pair_of(target.a, "default/shop")) as conn:
        conn.sendall(request(path=b"/lies"))
        answer = conn.recv(65536)
    assert answer.lower().count(b"x-baremesh-") == 1 and FACTS not in answer


NO_SERVICE = [
    *("127.0.0.1", "127.0.0.1:22", "localhost", "localhost:22", "169.254.169.254", "0.0.0.0"),
    *("[::1]:22", "2130706433", "0x7f000001", "127.1", "example.com", "victim.evil"),
    *("metadata.google.internal", "-", "..", ".", "victim..default"),
]


@pytest.mark.parametrize("host", NO_SERVICE)
def test_the_proxy_leads_to_services_of_the_mesh_only(target: Range, host: str) -> None:
    for line in (f"GET / HTTP/1.1\r\nHost: {host}", f"GET http://{host}/ HTTP/1.1\r\nHost: {host}"):
        assert statuses(target.say(f"{line}\r\n\r\n".encode(), seconds=0.2, want=1)) in (
            [404],
            [400],
        )
    connect = f"CONNECT {host}:22 HTTP/1.1\r\nHost: {host}:22\r\n\r\n".encode()
    assert statuses(target.say(connect, seconds=0.2, want=1)) in ([405], [400])


MALFORMED = [
    *(b"user@victim:9080", b"victim:9080@evil", b"victim:9080, evil", b"victim:09080000"),
    *(b"victim:9080/", b"victim:9080#", b"victim:9080?x", b"vic%74im:9080", b"victim:-1"),
    *(b"victim:9080:9080", b"[victim]:9080", b"victim:", b"", b"vict\xc4\xb1m:9080", b"a" * 300),
]


@pytest.mark.parametrize("host", MALFORMED, ids=lambda h: repr(h[:30]))
def test_a_malformed_host_is_refused(target: Range, host: bytes) -> None:
    answer = target.say(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", seconds=0.2, want=1)
    assert statuses(answer) in ([400], [404])


ADMIN = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: guarded}
spec:
  hosts: [victim]
  http:
  - match: [{uri: {prefix: /admin}}]
    route: [{destination: {host: shop, port: {number: 9000}}}]
  - route: [{destination: {host: victim}}]
"""
DISGUISES = [
    *("/admin", "/admin/", "/admin?x", "/./admin", "/x/../admin", "/x/%2e%2e/admin", "/%61dmin"),
    *("/.%2e/admin", "/%2E/admin", "\\admin", "/x\\..\\admin", "/x/..\\admin", "/%2e\\admin"),
    *("/admin/../admin", "/a/b/../../admin", "/../../admin", "/aDMIN/../admin"),
    *("http://victim:9080/admin", "HTTP://VICTIM:9080/x/../admin", "/admin%3fx", "/admin%2f"),
]


def test_no_spelling_of_a_path_walks_around_a_prefix_rule(target: Range) -> None:
    """The rule sends /admin to another service; the victim's application must not see it."""
    target.whole.apply(ADMIN)
    target.app.forget()
    for path in DISGUISES:
        data = f"GET {path} HTTP/1.1\r\nHost: victim:{PORT}\r\n\r\n".encode()
        answer = target.say(data, seconds=0.2, want=1)
        assert statuses(answer) == [400] or b'"shop-v1"' in answer, path
    assert target.app.paths() == []
    target.whole.clear()


def test_names_in_the_access_log_end_no_line(target: Range) -> None:
    evil = 'GET /%0a%22 HTTP/1.1\r\nHost: victim:9080\r\nUser-Agent: a"\\\x9b\xe9}\t{\r\n\r\n'
    assert b"200" in target.say(evil.encode("latin-1"), seconds=0.3, want=1)
    for host in target.whole.hosts.values():
        for line in (host.folder / "access.log").read_bytes().splitlines():
            json.loads(line)


SERIES = 64_000
"""Bytes in /metrics of one set of labels: three histograms of 20 buckets, and their labels."""


def test_a_peer_cannot_fill_memory_or_metrics_with_what_it_says(target: Range) -> None:
    """Two thousand different values of everything that is remembered by value."""
    pid, before = target.b.pids()[0], len(target.b.probe("/metrics")[1])
    big = b"a" * 12_000
    target.app.answers[b"/fill"] = (OK,)
    rss = 0
    with tls(target, pair_of(target.a, "default/shop")) as conn:
        file = conn.makefile("rb")
        for n in range(2_000):
            facts = urlsafe_b64encode(b'{"workload":"w%d","app":"a%d"}' % (n, n))
            conn.sendall(
                request(
                    *(b"X-Baremesh-Source: " + facts, b"User-Agent: %d" % n + big),
                    *(b"X-Forwarded-For: %d" % n + big, b"X-%d: y" % n, b"Cookie: %d" % n),
                    path=b"/fill?%d" % n,
                )
            )
            while file.readline() != b"\r\n":
                pass
            file.read(2)
            if n == 200:
                rss = resident(pid)
    grown = resident(pid) - rss
    after = len(target.b.probe("/metrics")[1])
    print(f"memory {grown >> 10} KiB, metrics {before} -> {after} bytes")
    assert grown < 8 << 20
    assert after - before < SERIES * (MAX_FACTS + 1)
    apps = set(re.findall(r'source_app="(a[0-9]+)"', target.b.probe("/metrics")[1]))
    assert 0 < len(apps) <= MAX_FACTS
