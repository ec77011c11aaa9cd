"""HTTP/1.1 through two workers over mTLS: whole, streamed, broken, retried, counted."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from hosts import CLUSTER, HOST, Hosts, echo, get, read_answer, read_head
from rig import identity, wait_for

from meshd import counters
from meshkit.model.resources import HeaderOperations, HTTPMatch, StringMatch
from meshkit.snapshot.types import Cluster, Destination, Endpoint, RetryPolicy


def entries(hosts: Hosts, side: str = "near", least: int = 1) -> list[dict[str, object]]:
    rig = getattr(hosts, side)
    wait_for(lambda: rig.access_log.read_text().count("\n") >= least)
    return [json.loads(line) for line in rig.access_log.read_text().splitlines()]


def count(hosts: Hosts, name: str, side: str = "near", **labels: str) -> int:
    rig = getattr(hosts, side)
    total = 0
    for series in counters.read(rig.folder / f"counters.{rig.index}"):
        have = dict(series.labels)
        if series.name == name and all(have.get(k) == v for k, v in labels.items()):
            total += sum(series.values)
    return total


def test_a_request_arrives_with_identity_and_ids(hosts: Hosts) -> None:
    head, body = hosts.request(get("/a/../b?x=1", headers="X-Forwarded-Client-Cert: forged\r\n"))
    assert head.startswith(b"HTTP/1.1 200")
    assert b"x-baremesh" not in head.lower()
    assert body.startswith(b"GET /b?x=1 HTTP/1.1\r\nhost: app\r\n")
    assert b"x-request-id: " in body and b"traceparent: 00-" in body
    assert b"x-baremesh" not in body
    assert f"URI={identity('caller')}".encode() in body and b"forged" not in body


def test_keep_alive_and_pipelining(hosts: Hosts) -> None:
    with hosts.connect() as conn:
        conn.sendall(get("/1") + get("/2") + get("/3"))
        received = b""
        while received.count(b"GET /") < 3:
            received += conn.recv(65536)
    assert [received.index(b"GET /%d" % i) for i in (1, 2, 3)] == sorted(
        received.index(b"GET /%d" % i) for i in (1, 2, 3)
    )
    assert hosts.application.connections == 1


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 65_537, 3_000_000])
def test_bodies_of_any_size_both_ways(hosts: Hosts, size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    head, body = hosts.request(
        b"POST /up HTTP/1.1\r\nHost: app\r\nContent-Length: %d\r\n\r\n" % size + payload
    )
    assert head.startswith(b"HTTP/1.1 200") and body.endswith(payload)


def test_chunked_both_ways_with_trailers(hosts: Hosts) -> None:
    def chunked(conn: socket.socket) -> None:
        head, rest = read_head(conn)
        while b"0\r\n" not in rest or not rest.endswith(b"\r\n\r\n"):
            rest += conn.recv(65536)
        assert b"transfer-encoding: chunked" in head
        conn.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5;x=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n"
        )
        conn.recv(1)

    hosts.use(chunked)
    with hosts.connect() as conn:
        conn.sendall(
            b"POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n"
        )
        time.sleep(0.05)
        conn.sendall(b"0\r\n\r\n")
        received = b""
        while b"x-sum: 1" not in received:
            received += conn.recv(65536)
    assert b"transfer-encoding: chunked" in received
    assert b"hello" in received and b" world" in received
    assert b"x=1" not in received and b"content-length" not in received.lower()


def test_head_has_a_length_and_no_body(hosts: Hosts) -> None:
    def answer(conn: socket.socket) -> None:
        while read_head(conn)[0]:
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    hosts.use(answer)
    with hosts.connect() as conn:
        for _ in range(2):
            conn.sendall(b"HEAD / HTTP/1.1\r\nHost: app\r\n\r\n")
            head, rest = read_head(conn)
            assert b"content-length: 1000" in head and rest == b""


def test_expect_continue_goes_through(hosts: Hosts) -> None:
    def answer(conn: socket.socket) -> None:
        head, rest = read_head(conn)
        assert b"expect: 100-continue" in head.lower()
        conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(rest) < 5:
            rest += conn.recv(10)
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" + rest)

    hosts.use(answer)
    with hosts.connect() as conn:
        conn.sendall(
            b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        head, rest = read_head(conn)
        assert head.startswith(b"HTTP/1.1 100")
        conn.sendall(b"hello")
        assert read_answer(conn, rest)[1] == b"hello"


def test_a_refused_expectation_ends_the_connection(hosts: Hosts) -> None:
    """What follows could be the body or the next request: it must not be read as either."""

    def refuse(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        conn.recv(1)

    hosts.use(refuse)
    with hosts.connect() as conn:
        conn.sendall(
            b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 50\r\nExpect: 100-continue\r\n\r\n"
        )
        head, body = read_answer(conn)
        assert head.startswith(b"HTTP/1.1 413") and body == b"no"
        assert b"\r\nconnection: close\r\n" in head
        assert conn.recv(1) == b""
    assert count(hosts, "meshd_limit_hits_total") == 0


def test_an_early_answer_is_not_missed(hosts: Hosts) -> None:
    def refuse(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        while conn.recv(65536):
            pass

    hosts.use(refuse)
    with hosts.connect() as conn:
        conn.sendall(b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 10000000\r\n\r\nstart")
        head, body = read_answer(conn)
    assert head.startswith(b"HTTP/1.1 413") and body == b"no"


def test_an_answer_until_close_becomes_chunked(hosts: Hosts) -> None:
    def old(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.0 200 OK\r\nX-Old: 1\r\n\r\nuntil the end")

    hosts.use(old)
    with hosts.connect() as conn:
        conn.sendall(get())
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += conn.recv(65536)
    assert b"until the end" in received


def test_http10_clients_are_served(hosts: Hosts) -> None:
    with hosts.connect() as conn:
        conn.sendall(b"GET /old HTTP/1.0\r\nHost: app\r\n\r\n")
        received = b""
        while data := conn.recv(65536):
            received += data
    assert b"GET /old HTTP/1.1" in received


@pytest.mark.parametrize(
    ("answer", "status", "flag"),
    [
        (b"", 503, "UC"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 502, "UPE"),
        (b"garbage\r\n\r\n", 502, "UPE"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 502, "UPE"),
    ],
)
def test_a_broken_answer_is_one_error(hosts: Hosts, answer: bytes, status: int, flag: str) -> None:
    def broken(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(answer)

    hosts.use(broken)
    head, body = hosts.request(get())
    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert b"request id" in body
    assert entries(hosts, "far")[-1]["response_flags"] == flag


def test_a_cut_answer_is_cut_downstream_too(hosts: Hosts) -> None:
    def cut(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")

    hosts.use(cut)
    with hosts.connect() as conn:
        conn.sendall(get())
        received = b""
        try:
            while data := conn.recv(65536):
                received += data
        except ConnectionResetError:
            pass
    assert b"content-length: 100" in received and not received.endswith(b"0\r\n\r\n")
    assert entries(hosts)[-1]["response_flags"] == "UC"


def test_no_route_names_the_reason(hosts: Hosts) -> None:
    head, body = hosts.request(get(host="nowhere"))
    assert head.startswith(b"HTTP/1.1 404") and b"host_not_found" in body
    assert entries(hosts)[-1]["response_flags"] == "NR"
    labels = {"response_code": "404", "response_flags": "NR"}
    wait_for(lambda: count(hosts, "istio_requests_total", **labels) == 1)


def test_names_of_a_service(hosts: Hosts) -> None:
    for name in ("app", "app:80", "APP", "app.default", "app.default.svc", HOST, HOST + ":80"):
        assert hosts.request(get(host=name))[0].startswith(b"HTTP/1.1 200"), name
    for name in ("app:81", "app.other", "app.example"):
        assert hosts.request(get(host=name))[0].startswith(b"HTTP/1.1 404"), name


def test_missing_cluster_and_no_endpoint(hosts: Hosts) -> None:
    hosts.apply(hosts.outbound(destinations=(Destination("outbound|80|v9|app", 1),)))
    assert b"503" in hosts.request(get())[0]
    assert entries(hosts)[-1]["response_flags"] == "NC"
    spec = hosts.outbound()
    empty = {CLUSTER: Cluster(CLUSTER, "RANDOM", (), (identity("app"),))}
    hosts.apply(type(spec)(spec.host, spec.service, spec.namespace, spec.ports, empty))
    assert b"503" in hosts.request(get())[0]
    assert entries(hosts, least=2)[-1]["response_flags"] == "UH"


def test_matches_weights_and_header_operations(hosts: Hosts) -> None:
    spec = hosts.outbound(
        request_headers=HeaderOperations(set=(("X-Set", "1"),), remove=("x-gone",)),
        response_headers=HeaderOperations(add=(("x-added", "2"),)),
        match=(HTTPMatch(headers=(("end-user", StringMatch("exact", "test-user")),)),),
    )
    hosts.apply(spec)
    head, body = hosts.request(get(headers="End-User: test-user\r\nX-Gone: 1\r\n"))
    assert b"x-added: 2" in head and b"x-set: 1" in body and b"x-gone" not in body
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 404")


def test_route_timeout_covers_everything(hosts: Hosts) -> None:
    def silent(conn: socket.socket) -> None:
        read_head(conn)
        conn.recv(1)

    hosts.use(silent)
    hosts.apply(hosts.outbound(timeout=0.2))
    head, _ = hosts.request(get())
    assert head.startswith(b"HTTP/1.1 504")
    assert entries(hosts)[-1]["response_flags"] == "UT"


def test_retries_on_status_and_per_try_timeout(hosts: Hosts) -> None:
    answers = iter([b"503", b"slow", b"200"])

    def flaky(conn: socket.socket) -> None:
        while read_head(conn)[0]:
            answer = next(answers)
            if answer == b"slow":
                conn.recv(1)
                return
            conn.sendall(b"HTTP/1.1 %b X\r\ncontent-length: 0\r\n\r\n" % answer)

    hosts.use(flaky)
    retry = RetryPolicy(attempts=3, per_try_timeout=1.0, retry_on=("5xx",))
    hosts.apply(hosts.outbound(retry=retry))
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200")
    assert count(hosts, "meshd_retries_total") == 2


def test_the_last_status_is_passed_on_when_tries_are_used_up(hosts: Hosts) -> None:
    def failing(conn: socket.socket) -> None:
        while read_head(conn)[0]:
            conn.sendall(b"HTTP/1.1 503 Own\r\ncontent-length: 5\r\n\r\nsorry")

    hosts.use(failing)
    hosts.apply(hosts.outbound(retry=RetryPolicy(attempts=1, retry_on=("5xx",))))
    head, body = hosts.request(get())
    assert head.startswith(b"HTTP/1.1 503") and body == b"sorry"
    assert count(hosts, "meshd_retries_total") == 1


def test_a_post_on_a_dead_reused_connection_is_not_repeated(hosts: Hosts) -> None:
    seen: list[bytes] = []

    def once(conn: socket.socket) -> None:
        head, _ = read_head(conn)
        seen.append(head.split(b" ")[0])
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        head, _ = read_head(conn)
        if head:
            seen.append(head.split(b" ")[0])

    hosts.use(once)
    assert b"200" in hosts.request(get())[0]
    head, _ = hosts.request(b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\n\r\nhi")
    assert head.startswith(b"HTTP/1.1 503")
    assert seen == [b"GET", b"POST"]
    assert b"200" in hosts.request(get())[0]
    assert b"200" in hosts.request(get())[0], "a GET is repeated on a new connection"


def test_a_repetition_does_not_take_another_dying_connection(hosts: Hosts) -> None:
    """Two idle connections, both of which end at their next request."""
    together, numbers = threading.Barrier(2), itertools.count()

    def first_two_end(conn: socket.socket) -> None:
        if next(numbers) >= 2:
            echo(conn)
            return
        read_head(conn)
        together.wait(5)
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        read_head(conn)

    hosts.use(first_two_end)
    callers = [threading.Thread(target=hosts.request, args=(get(),)) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200")


def test_an_unreachable_endpoint_is_left_for_another(hosts: Hosts) -> None:
    spec = hosts.outbound()
    good = spec.clusters[CLUSTER].endpoints[0]
    dead = Endpoint("127.0.0.1", 1, good.sni)
    cluster = Cluster(CLUSTER, "ROUND_ROBIN", (dead, good), (identity("app"),))
    hosts.apply(type(spec)(spec.host, spec.service, spec.namespace, spec.ports, {CLUSTER: cluster}))
    for _ in range(6):
        assert b"200" in hosts.request(get())[0]


def test_secure_naming_refuses_another_account(hosts: Hosts) -> None:
    hosts.far.keys(identity("app"), hosts.authority.issue(identity("other")))
    head, body = hosts.request(get())
    assert head.startswith(b"HTTP/1.1 503") and b"upstream_identity_refused" in body
    last = entries(hosts)[-1]
    assert last["response_flags"] == "UF"
    assert identity("other") in str(last["upstream_transport_failure_reason"])
    assert hosts.application.connections == 0


def test_a_reload_drops_no_connection(hosts: Hosts) -> None:
    failures: list[bytes] = []
    done = threading.Event()

    def load() -> None:
        with hosts.connect() as conn:
            while not done.is_set():
                conn.sendall(get())
                head, _ = read_answer(conn)
                if b" 200 " not in head:
                    failures.append(head)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(20):
        hosts.apply(hosts.outbound(name=f"route-{i}"))
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_labels_of_both_reporters(hosts: Hosts) -> None:
    hosts.request(get())
    source = {
        "reporter": "source",
        "source_app": "caller",
        "destination_app": "app",
        "destination_version": "v1",
        "destination_service": HOST,
        "response_code": "200",
        "connection_security_policy": "unknown",
    }
    destination = {
        "reporter": "destination",
        "source_principal": identity("caller"),
        "source_app": "caller",
        "destination_principal": identity("app"),
        "connection_security_policy": "mutual_tls",
    }
    # A request is recorded after its answer has left.
    wait_for(lambda: count(hosts, "istio_requests_total", **source) == 1)
    wait_for(lambda: count(hosts, "istio_requests_total", side="far", **destination) == 1)


def test_log_keys_and_ids_agree_on_both_hosts(hosts: Hosts) -> None:
    hosts.request(get("/seen", headers='X-Request-Id: abc\r\nUser-Agent: t"est\r\n'))
    near, far = entries(hosts)[-1], entries(hosts, "far")[-1]
    assert near["request_id"] == far["request_id"] == "abc"
    assert near["user_agent"] == 't"est' and near["route_name"] == "app-route"
    assert str(near["upstream_local_address"]).startswith("127.0.0.1:")
    assert near["upstream_cluster"] == CLUSTER and near["response_code"] == 200
    assert str(far["requested_server_name"]).startswith("p80.main.app.default.")


def test_memory_is_bounded_for_a_slow_reader(hosts: Hosts) -> None:
    piece = b"x" * 65536

    def endless(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1000 * len(piece)))
        for _ in range(1000):
            conn.sendall(piece)

    def rss(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

    hosts.use(endless)
    before = rss(hosts.near.process.pid)
    with hosts.connect() as conn:
        conn.sendall(get())
        conn.recv(1000)
        time.sleep(0.5)
        assert rss(hosts.near.process.pid) - before < 8_000_000
        assert rss(hosts.far.process.pid) < 80_000_000
