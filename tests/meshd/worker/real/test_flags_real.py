"""How requests end, in the access log: flags and details, over HTTP/1.1, HTTP/2 and gRPC."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from h2peer import Client, Message, Server
from hosts import CLUSTER, Hosts, get, read_answer, read_head
from limits import edge, ended, limit
from rig import MESH, identity, listen, wait_for
from test_upgrade_real import ASK

from meshkit.http.grpc import status_of_reply
from meshkit.model.resources import HTTPMatch, StringMatch
from meshkit.names import ServiceName
from meshkit.snapshot import messages
from meshkit.snapshot.sni import mesh_sni
from meshkit.snapshot.types import (
    Destination,
    EdgeServer,
    Endpoint,
    RetryPolicy,
    TCPRoute,
)

__all__ = ["edge"]

SNI = mesh_sni(ServiceName("default", "app"), 80, "main", MESH.domain)
VERSIONS = ("HTTP/1.1", "HTTP/2", "gRPC")
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def line(hosts: Hosts, side: str = "near") -> dict[str, Any]:
    """The last line of a host's access log."""
    rig = getattr(hosts, side)
    wait_for(lambda: rig.access_log.read_text().count("\n") > 0)
    last: dict[str, Any] = json.loads(rig.access_log.read_text().splitlines()[-1])
    return last


def says(answer: bytes) -> Callable[[socket.socket], None]:
    """An application that says this to every request, and leaves."""

    def say(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(answer)

    return say


def silent(conn: socket.socket) -> None:
    read_head(conn)
    ended(conn)


class Resetting(Server):
    """Resets every stream."""

    def on_request(self, stream: int, message: Message) -> None:
        self.reset(stream)

    def on_end(self, stream: int, message: Message) -> None:
        """It was reset."""


def clusters(hosts: Hosts, **changes: Any) -> None:
    host = hosts.outbound()
    hosts.apply(replace(host, clusters={CLUSTER: replace(host.clusters[CLUSTER], **changes)}))


def unreachable(hosts: Hosts) -> None:
    with listen() as sock:
        port = sock.getsockname()[1]
    clusters(hosts, endpoints=(Endpoint("127.0.0.1", port, SNI),))


def elsewhere(hosts: Hosts) -> None:
    """The caller's service belongs to another user."""
    near = hosts.configs["near"]
    caller = replace(near.workloads[0], uid=54321)
    hosts.configs["near"] = replace(near, workloads=(caller,))
    hosts.apply(hosts.outbound())


def resetting(hosts: Hosts) -> None:
    hosts.use(lambda conn: Resetting(conn)())
    hosts.speak("HTTP2")


def retried(hosts: Hosts) -> None:
    hosts.use(says(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
    hosts.apply(hosts.outbound(retry=RetryPolicy(attempts=1, retry_on=("503",))))


def bytes_only(hosts: Hosts) -> None:
    host = hosts.outbound()
    route = TCPRoute("bytes", (), (Destination(CLUSTER, 1),))
    hosts.apply(replace(host, ports={}, tcp={80: (route,)}))


def using(handler: Callable[[socket.socket], object], **knobs: int) -> Callable[[Hosts], None]:
    def arrange(hosts: Hosts) -> None:
        hosts.use(handler)
        if knobs:
            limit(hosts, **knobs)

    return arrange


def routed(**route: object) -> Callable[[Hosts], None]:
    def arrange(hosts: Hosts) -> None:
        hosts.use(silent)
        hosts.apply(hosts.outbound(**route))

    return arrange


@dataclass(frozen=True)
class Ending:
    """``stalls``: the client begins a body and never ends it.  ``side``: whose log."""

    flag: str
    details: str
    status: int
    arrange: Callable[[Hosts], None]
    side: str = "near"
    host: str = "app"
    path: str = "/"
    stalls: bool = False


ONLY_X = (HTTPMatch(uri=StringMatch("exact", "/x")),)
NOWHERE = (Destination("outbound|80|v9|app", 1),)
ENDINGS = (
    Ending("-", "via_upstream", 200, using(says(OK))),
    Ending("URX", "via_upstream", 503, retried),
    Ending("NR", "host_not_found", 404, using(silent), host="nowhere"),
    Ending("NR", "route_not_found", 404, routed(match=ONLY_X)),
    Ending("NR", "port_not_http", 404, bytes_only),
    Ending("NC", "cluster_not_found", 503, routed(destinations=NOWHERE)),
    Ending("UH", "no_healthy_upstream", 503, lambda hosts: clusters(hosts, endpoints=())),
    Ending("UF", "upstream_connection_failure", 503, unreachable),
    Ending(
        *("UF", "upstream_identity_refused", 503),
        lambda hosts: clusters(hosts, accounts=(identity("other"),)),
    ),
    Ending("UC", "upstream_reset", 503, using(says(b"")), side="far"),
    Ending("UR", "upstream_remote_reset", 503, resetting, side="far"),
    Ending("UPE", "upstream_protocol_error", 502, using(says(b"ICY 200\r\n\r\n")), side="far"),
    Ending("UT", "upstream_timeout", 504, routed(timeout=0.3)),
    Ending("SI", "upstream_idle_timeout", 504, using(silent, stream_idle=1)),
    Ending("SI", "stream_idle_timeout", 408, using(silent, stream_idle=1), stalls=True),
    Ending("-", "request_timeout", 408, using(silent, request_timeout=1), stalls=True),
    Ending("DPE", "bad_path", 400, using(silent), path="/a%zz"),
    Ending("-", "caller_unknown", 403, elsewhere),
)


def ask(hosts: Hosts, version: str, ending: Ending) -> tuple[int, str]:
    """The status that the client sees, and its gRPC status."""
    with hosts.connect() as conn:
        if version == "HTTP/1.1":
            data = get(ending.path, ending.host)
            if ending.stalls:
                data = data.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\n")
                data += b"Content-Length: 100\r\n\r\nsome"
            conn.sendall(data)
            return int(read_answer(conn)[0].split()[1]), ""
        client = Client(conn)
        answer = client.answer(
            client.ask(
                ending.path,
                b"some" if ending.stalls else None,
                method="POST" if ending.stalls or version == "gRPC" else "GET",
                host=ending.host,
                fields=GRPC if version == "gRPC" else (),
                end=not ending.stalls,
            )
        )
        named = dict([*answer.fields, *answer.trailers])
        return answer.status, named.get(b"grpc-status", b"").decode()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda e: f"{e.flag}-{e.details}")
def test_how_a_request_ends(hosts: Hosts, ending: Ending, version: str) -> None:
    ending.arrange(hosts)
    status, grpc = ask(hosts, version, ending)
    logged = line(hosts, ending.side)
    assert (logged["response_flags"], logged["response_code_details"]) == (
        ending.flag,
        ending.details,
    ), logged
    if ending.side == "near" or version != "gRPC":
        _check_status(ending, version, logged, status, grpc)


def _check_status(
    ending: Ending, version: str, logged: dict[str, Any], status: int, grpc: str
) -> None:
    """What the client saw, and what the log of the host that answered says of it."""
    if version == "gRPC" and ending.details != "via_upstream" and ending.flag != "DPE":
        want = str(status_of_reply(ending.status))
        assert (status, grpc, logged["grpc_status"]) == (200, want, want)
        return
    assert status == ending.status
    if ending.side == "near":
        assert logged["response_code"] == status
        assert logged["protocol"] == ("HTTP/1.1" if version == "HTTP/1.1" else "HTTP/2")


# Applications that do not speak what their port declares


def http2_only(conn: socket.socket) -> None:
    Server(conn)()


@pytest.mark.parametrize(
    ("declared", "handler", "remedy"),
    [
        ("HTTP", http2_only, "answers in HTTP/2: declare its port HTTP2 or GRPC"),
        ("HTTP2", says(b"HTTP/1.1 400 Bad\r\n\r\n"), "answers in HTTP/1.1: declare its port HTTP"),
    ],
)
def test_the_log_says_which_protocol_to_declare(
    hosts: Hosts, declared: str, handler: Callable[[socket.socket], None], remedy: str
) -> None:
    hosts.use(handler)
    hosts.speak(declared)
    ending = Ending("UPE", "upstream_protocol_error", 502, unreachable)
    assert ask(hosts, "HTTP/1.1", ending)[0] == 502
    assert line(hosts, "far")["upstream_transport_failure_reason"].endswith(remedy)


# Within an answer


def half(conn: socket.socket) -> None:
    read_head(conn)
    conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    conn.recv(1)


def begin(hosts: Hosts, version: str) -> None:
    """Ask, and read until the answer is cut."""
    with hosts.connect() as conn:
        if version == "HTTP/1.1":
            conn.sendall(get())
            head, body = read_answer(conn)
            assert head.startswith(b"HTTP/1.1 200") and body == b"half"
        else:
            answer = Client(conn).get()
            assert answer.status == 200 and answer.body == b"half" and answer.reset >= 0


@pytest.mark.parametrize("version", VERSIONS[:2])
def test_a_cut_answer(hosts: Hosts, version: str) -> None:
    hosts.use(says(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"))
    begin(hosts, version)
    for side in ("near", "far"):
        logged = line(hosts, side)
        assert (logged["response_flags"], logged["response_code_details"]) == ("UC", "upstream_cut")


@pytest.mark.parametrize("version", VERSIONS[:2])
def test_a_timeout_within_an_answer(hosts: Hosts, version: str) -> None:
    hosts.use(half)
    hosts.apply(hosts.outbound(timeout=0.5))
    begin(hosts, version)
    logged = line(hosts)
    assert (logged["response_flags"], logged["response_code_details"]) == ("UT", "via_upstream")
    assert logged["response_code"] == 200


@pytest.mark.parametrize("version", VERSIONS[:2])
def test_silence_within_an_answer(hosts: Hosts, version: str) -> None:
    hosts.use(half)
    limit(hosts, stream_idle=1)
    begin(hosts, version)
    logged = line(hosts)
    assert (logged["response_flags"], logged["response_code_details"]) == ("SI", "via_upstream")


@pytest.mark.parametrize("version", VERSIONS[:2])
def test_a_client_that_leaves(hosts: Hosts, version: str) -> None:
    def endless(conn: socket.socket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            conn.sendall(b"4\r\nmore\r\n")
            time.sleep(0.05)

    hosts.use(endless)
    with hosts.connect() as conn:
        if version == "HTTP/1.1":
            conn.sendall(get())
            read_head(conn)
        else:
            client = Client(conn)
            stream = client.ask()
            client.until(lambda: client.streams[stream].body)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    logged = line(hosts)
    assert (logged["response_flags"], logged["response_code_details"]) == ("DC", "via_upstream")


def test_no_tunnel_begins_in_a_drain(hosts: Hosts) -> None:
    hosts.use(silent)
    with hosts.connect() as busy, hosts.connect() as conn:
        busy.sendall(get())
        conn.sendall(b"GET /chat HTTP/1.1\r\nHost: app\r\n")
        time.sleep(0.3)
        hosts.near.send(messages.drain(5))
        time.sleep(0.3)
        conn.sendall(ASK.encode() + b"\r\n")
        head, body = read_answer(conn)
    assert head.startswith(b"HTTP/1.1 503") and b"draining" in body


def test_a_gateway_wants_https(edge: Hosts) -> None:
    config = edge.configs["near"]
    server = EdgeServer("edge", "default", ("*",), https_redirect=True)
    edge.configs["near"] = replace(config, edge=(server,))
    edge.apply(edge.outbound())
    with edge.connect() as conn:
        conn.sendall(get())
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 301")
    assert line(edge)["response_code_details"] == "https_required"
