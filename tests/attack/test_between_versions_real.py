"""HTTP/1.1 on one side, HTTP/2 on the other: answers and requests that lie to the one in between.

With both engines: where ngh2 is missing the other one must refuse the same.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from h2.events import DataReceived
from h2.exceptions import ProtocolError
from h2peer import Client, Fields, Message, Server
from hosts import Hosts, get, read_head
from limits import count, ended
from rig import wait_for

from meshd import counters
from tests.meshkit.http import h2_wire as wire
from tests.meshkit.http.h2_wire import frame, literal

ROOT = Path(__file__).parents[2]
EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
SETTINGS = frame(wire.SETTINGS, 0, 0) + frame(wire.SETTINGS, wire.ACK, 0)


@pytest.fixture(params=["ngh2", "h2"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Workers started from now on have this engine."""
    if request.param == "h2":
        package = tmp_path / "missing" / "ngh2"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('raise ImportError("missing")\n')
        monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{ROOT}")
    return str(request.param)


# An application that answers HTTP/2, to a client of HTTP/1.1


def head(block: bytes, flags: int = wire.END_HEADERS, stream: int = 1) -> bytes:
    return frame(wire.HEADERS, flags, stream, block)


def body(data: bytes, flags: int = wire.END_STREAM) -> bytes:
    return frame(wire.DATA, flags, 1, data)


def length(number: int) -> bytes:
    return literal(b"content-length", b"%d" % number)


def status(number: int) -> bytes:
    return literal(b":status", b"%d" % number)


ENDED = wire.END_HEADERS | wire.END_STREAM
ANSWERS: dict[str, tuple[str, bytes]] = {
    "204 with DATA": ("GET", head(status(204)) + body(EVIL)),
    "304 with DATA": ("GET", head(status(304)) + body(EVIL)),
    "304 with its length": ("GET", head(status(304) + length(len(EVIL))) + body(EVIL)),
    "HEAD with DATA": ("HEAD", head(status(200)) + body(EVIL)),
    "HEAD with its length": ("HEAD", head(status(200) + length(len(EVIL))) + body(EVIL)),
    "more than it said": ("GET", head(status(200) + length(2)) + body(b"ok" + EVIL)),
    "more, in pieces": (
        "GET",
        head(status(200) + length(2)) + body(b"ok", 0) + body(EVIL),
    ),
    "less than it said": ("GET", head(status(200) + length(100)) + body(b"ok")),
    "two lengths": ("GET", head(status(200) + length(2) + length(100)) + body(b"ok")),
    "no length": ("GET", head(status(200) + literal(b"content-length", b"+2")) + body(b"ok")),
    "a second head": ("GET", head(status(200)) + body(b"ok", 0) + head(status(200))),
    "status in trailers": ("GET", head(status(200)) + body(b"o", 0) + head(status(204), ENDED)),
    "length in trailers": ("GET", head(status(200)) + body(b"o", 0) + head(length(500), ENDED)),
    "101": ("GET", head(status(101)) + body(EVIL)),
    "103 that ends": ("GET", head(status(103), ENDED)),
    "103 with a length": ("GET", head(status(103) + length(4)) + body(EVIL)),
    "line ends in a name": ("GET", head(status(200) + literal(b"a: b\r\nc", b"d")) + body(b"ok")),
    "line ends in a value": ("GET", head(status(200) + literal(b"a", b"b\r\n\r\n" + EVIL))),
    "line end in trailers": (
        "GET",
        head(status(200)) + body(b"ok", 0) + head(literal(b"a", b"b\nc: d"), ENDED),
    ),
    "a NUL": ("GET", head(status(200) + literal(b"a", b"b\0c")) + body(b"ok")),
    "upper case": ("GET", head(status(200) + literal(b"Content-Length", b"0")) + body(EVIL)),
    "upgrade": ("GET", head(status(200) + literal(b"upgrade", b"websocket")) + body(b"ok")),
    "DATA before the head": ("GET", body(EVIL, 0) + head(status(200), ENDED)),
}


def serves(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(conn: socket.socket) -> None:
        seen = b""
        while b"\1" not in seen[24:]:
            seen += conn.recv(65536)
        conn.sendall(SETTINGS + answer)
        conn.settimeout(0.3)
        while conn.recv(65536):
            pass

    return serve


def test_an_answer_over_http2_stays_one_answer(engine: str, hosts: Hosts) -> None:
    hosts.speak("HTTP2")
    for name, (method, answer) in ANSWERS.items():
        hosts.use(serves(answer))
        with hosts.connect() as conn:
            conn.settimeout(3)
            conn.sendall(get("/one").replace(b"GET", method.encode(), 1))
            time.sleep(0.02)
            conn.sendall(b"BAD\r\n\r\n")  # its 400 ends a connection that goes on
            got = ended(conn)
        told = [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]]
        assert b"evil" not in got, (name, got)
        assert told[1:] in ([], [b"400"]), (name, got)
        if name == "length in trailers" and told[1:]:
            assert b"500" not in got  # h2 lets it come, and we drop it
        else:
            assert told[0] in BROKEN or (told == [b"200"] and name in CUT), (name, got)
            assert not got.endswith(b"0\r\n\r\n"), (name, "it broke off and passed for whole")
    maps = Path(f"/proc/{hosts.near.process.pid}/maps").read_text()
    assert ("ngh2" in maps) == (engine == "ngh2")


BROKEN = (b"502", b"503")
CUT = {
    *("more, in pieces", "a second head"),
    *("status in trailers", "length in trailers", "line end in trailers"),
}
"""Found out only within their bodies: what was promised is sent, or the connection is cut."""


# An application of HTTP/1.1, to a client of HTTP/2


def says(*answers: bytes) -> Callable[[socket.socket], None]:
    """A path of n is answered with the nth of these."""

    def serve(conn: socket.socket) -> None:
        rest = b""
        while True:
            asked, rest = read_head(conn, rest)
            if not asked:
                return
            answer = answers[int(asked.split(b" ")[1][1:] or b"0")]
            conn.sendall(answer)
            if b"\r\nx-end: 1" in answer:
                return

    return serve


TWO = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
MANY = b"".join(b"t%d: v\r\n" % number for number in range(200))
TO_H2: dict[str, tuple[str, bytes]] = {
    "more than it said": ("GET", TWO + EVIL),
    "a body after HEAD": ("HEAD", TWO + EVIL),
    "a body after 204": ("GET", b"HTTP/1.1 204 No\r\n\r\n" + EVIL),
    "a body after 304": ("GET", b"HTTP/1.1 304 No\r\ncontent-length: 4\r\n\r\nevil"),
    "endless 1xx": ("GET", b"HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\n" * 500 + TWO),
    "101": ("GET", b"HTTP/1.1 101 Go\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + EVIL),
    "many trailers": ("GET", CHUNKED + b"2\r\nok\r\n0\r\n" + MANY + b"\r\n"),
    "large trailers": ("GET", CHUNKED + b"2\r\nok\r\n0\r\nt: " + b"v" * 70_000 + b"\r\n\r\n"),
    "chunks that break off": ("GET", CHUNKED + b"2\r\nok\r\nzz\r\n"),
    "less than it said": ("GET", b"HTTP/1.1 200 OK\r\nx-end: 1\r\ncontent-length: 9\r\n\r\nok"),
    "a name of HTTP/2": ("GET", b"HTTP/1.1 200 OK\r\n:status: 204\r\ncontent-length: 0\r\n\r\n"),
}
WHOLE = {"more than it said": b"ok", "a body after HEAD": b"", "a body after 204": b""}
WHOLE["a body after 304"] = b""


def test_an_answer_over_http1_stays_one_answer(engine: str, hosts: Hosts) -> None:
    hosts.use(says(TWO, *(answer for _, answer in TO_H2.values())))
    for number, (name, (method, _)) in enumerate(TO_H2.items(), 1):
        with hosts.connect() as conn:
            client = Client(conn)
            told = client.answer(client.ask(f"/{number}", method=method))
            assert b"evil" not in told.body, (name, told)
            if name in WHOLE:
                assert told.body == WHOLE[name] and told.ended, (name, told)
            else:
                assert told.status >= 500 or told.reset >= 0, (name, told)
            assert len(told.interim) <= 8, (name, len(told.interim))
            assert client.get().body == b"ok", name


def test_names_that_frame_are_no_trailers(engine: str, hosts: Hosts) -> None:
    fields = (
        b"content-length: 5\r\ntransfer-encoding: chunked\r\nset-cookie: a=b\r\nhost: x\r\n"
        b"x-baremesh-destination: x\r\nx-forwarded-client-cert: x\r\ngrpc-status: 0\r\n"
    )
    hosts.use(says(CHUNKED + b"2\r\nok\r\n0\r\n" + fields + b"\r\n"))
    with hosts.connect() as conn:
        told = Client(conn).get()
    assert told.body == b"ok" and told.trailers == [(b"grpc-status", b"0")]


# gRPC: a status is a label, a deadline a number

GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


class Statuses(Server):
    """Answers /status/message with exactly these trailers."""

    def on_end(self, stream: int, message: Message) -> None:
        status = message[b":path"].partition(b"?")[2]
        fields: Fields = [(b"grpc-status", status), (b"grpc-message", b"%0d%0aevil: %zz%")]
        self.respond(stream, b"\0\0\0\0\0", fields, fields=[("content-type", "application/grpc")])


def test_a_status_that_is_none_is_one_label(hosts: Hosts) -> None:
    hosts.use(lambda conn: Statuses(conn)())
    hosts.speak("GRPC")
    odd = [str(n) for n in range(17, 100)] + [
        "-1",
        "+1",
        "1e3",
        "0x5",
        "999999",
        "%31",
        "01",
        "1,2",
    ]
    with hosts.connect() as conn:
        client = Client(conn)
        for status in odd:
            told = client.get(f"/s?{status}", fields=GRPC)
            assert (b"grpc-status", status.encode()) in told.trailers
            assert (b"grpc-message", b"%0d%0aevil: %zz%") in told.trailers
    wait_for(lambda: count(hosts, "istio_requests_total") == len(odd))
    labels = {"grpc_response_status": "2"}
    assert count(hosts, "istio_requests_total", **labels) == len(odd) - 1
    for side in (hosts.near, hosts.far):
        wait_for(lambda: len(lines(side.access_log)) == len(odd))  # noqa: B023


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


TIMEOUTS = [
    "-1S",
    "999999999S",
    "99999999H",
    "1",
    "S",
    "1s",
    "1.5S",
    " 1S",
    "1S ",
    "0x1S",
    "1S, 1n",
]
TIMEOUTS += ["18446744073709551616n", "99999999n", "00000001M", "٣S"]


def test_deadlines_that_are_none_are_no_deadlines(engine: str, hosts: Hosts) -> None:
    hosts.use(lambda conn: Statuses(conn)())
    hosts.speak("GRPC")
    with hosts.connect() as conn:
        client = Client(conn)
        client.h2.config.validate_outbound_headers = False
        for timeout in TIMEOUTS:
            told = client.get("/s?0", fields=[*GRPC, ("grpc-timeout", timeout)])
            assert told.status == 200 or told.reset == 1, timeout
            if told.status == 200 and not told.body:  # 99999999n is a tenth of a second
                assert timeout == "99999999n", told
        told = client.get("/s?0", fields=[*GRPC, ("grpc-timeout", "0n")])
        assert (b"grpc-status", b"4") in told.fields
        assert client.get("/s?0", fields=GRPC).body


class Everything(Server):
    """Answers with every status there is."""

    def on_end(self, stream: int, message: Message) -> None:
        status = int(message[b":path"][1:])
        fields: Fields = [(b"grpc-status", b"%d" % (status % 17))]
        self.respond(stream, b"x", fields, status=status)


def test_an_application_does_not_use_up_everybodys_series(hosts: Hosts) -> None:
    hosts.use(lambda conn: Everything(conn)())
    hosts.speak("GRPC")
    with hosts.connect() as conn:
        client = Client(conn)
        for status in range(206, 306):
            assert client.get(f"/{status}", fields=GRPC).status == status
    for side, rig in (("near", hosts.near), ("far", hosts.far)):
        wait_for(lambda: count(hosts, "istio_requests_total", side) == 100)  # noqa: B023
        names = [s.name for s in counters.read(rig.folder / f"counters.{rig.index}")]
        assert names.count("istio_requests_total") <= 66, side
        assert count(hosts, "istio_requests_total", side, response_code="unknown") > 30


# Values on their way into a log


def test_nothing_that_a_client_says_ends_a_log_line(hosts: Hosts) -> None:
    evil = '"}\\n{"a":"%s%(b)s{}\\u0000\\' + "é"
    with hosts.connect() as conn:
        client = Client(conn)
        client.h2.config.validate_outbound_headers = False
        for name in ("user-agent", "x-request-id", "x-forwarded-for", "traceparent", "te"):
            client.get(fields=[(name, evil)])
        for path in ('/%22%7d%0a{"', '/\\\\"', "/%s%n%(x)s", "/{0}{}"):
            client.get(path)
        told = client.get(method='"}{', host="app")
        assert told.status in (200, 400) or told.reset >= 0
    for side, most in ((hosts.near, 8), (hosts.far, 7)):  # two are no message, one is no path
        wait_for(lambda: len(lines(side.access_log)) == most)  # noqa: B023
        assert all(
            {"method", "path", "response_code"} <= set(line) for line in lines(side.access_log)
        )


# Heads at their limit, on a connection that carries others' requests too


class Heads(Server):
    """/hold is answered when /free comes; /n with n bytes of header fields."""

    held: list[tuple[Server, int]] = []  # noqa: RUF012

    def on_end(self, stream: int, message: Message) -> None:
        path = message[b":path"]
        if path == b"/hold":
            self.held.append((self, stream))
        elif path == b"/free":
            for server, one in self.held:
                server.respond(one, b"held")
            self.respond(stream, b"free")
        else:
            self.respond(stream, b"ok", fields=large(int(path[1:])))


def large(size: int) -> list[tuple[str, str]]:
    return [("x-large", "y" * min(15_000, size - at)) for at in range(0, size, 15_000)]


def test_a_head_that_grows_on_its_way_costs_its_own_stream(engine: str, hosts: Hosts) -> None:
    Heads.held.clear()
    hosts.use(lambda conn: Heads(conn)())
    hosts.speak("HTTP2")
    limit = 60 * 1024
    with hosts.connect() as conn:
        client = Client(conn)
        held = client.ask("/hold")
        wait_for(lambda: Heads.held)
        for size in range(limit - 1200, limit + 200, 70):
            told = client.get("/0", fields=large(size))
            assert told.status in (200, 431), (size, told)
            told = client.get(f"/{size}")
            assert told.status in (200, 502), (size, told)
        told = client.get("/0", fields=[("x", "y")] * 105)
        assert told.status == 431
        assert client.get("/free").body == b"free"
        assert client.answer(held).body == b"held"
    assert hosts.application.connections == 1


# Nothing is executed twice


class Breaks(Server):
    """Breaks each request off within its body, in a way that the path names."""

    asked: list[bytes] = []  # noqa: RUF012

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.broken: set[int] = set()

    def on_event(self, event: Any) -> None:
        stream = getattr(event, "stream_id", 0)
        if not isinstance(event, DataReceived) or stream in self.broken:
            return
        self.broken.add(stream)
        path = self.streams[stream][b":path"]
        self.asked.append(path)
        if path == b"/close":
            self.sock.shutdown(socket.SHUT_RDWR)
        elif path == b"/goaway":
            self.h2.close_connection(2, last_stream_id=stream)
            self.flush()
            self.sock.shutdown(socket.SHUT_RDWR)
        elif path == b"/answered":
            self.h2.send_headers(stream, [(":status", "200")])
            self.reset(stream, 7)
        else:
            self.reset(stream, int(path[1:]))


@pytest.mark.parametrize("size", [10, 40_000, 100_000])
def test_a_body_under_way_is_not_sent_twice(hosts: Hosts, size: int) -> None:
    Breaks.asked.clear()
    hosts.use(lambda conn: Breaks(conn)())
    hosts.speak("HTTP2")
    ways = ["/close", "/goaway", "/answered", *(f"/{code}" for code in (0, 1, 2, 8, 11))]
    for way in ways:
        with hosts.connect() as conn:
            client = Client(conn)
            stream = client.ask(way, method="POST", end=False)
            with suppress(AssertionError, ProtocolError):
                client.send(stream, b"x" * size)
            told = client.answer(stream)
            assert told.status != 200 or told.reset >= 0, (way, told)
    for way in ways:
        assert Breaks.asked.count(way.encode()) == 1, way
