"""What breaks on HTTP/2, and what it may cost: a stream, never its neighbours."""

from __future__ import annotations

import json
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from h2.events import DataReceived, Event, RequestReceived
from h2peer import SECONDS, Client, Message, Server
from hosts import CLUSTER, Hosts
from limits import count, hits
from rig import identity, wait_for

from meshkit.http.h2 import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    REFUSED_STREAM,
    goaway_frame,
    new_engine,
    settings_of,
)
from meshkit.http.limits import MESHD
from meshkit.snapshot.types import RetryPolicy

GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


@pytest.fixture
def app2(hosts: Hosts) -> Hosts:
    hosts.use(lambda conn: Server(conn)())
    hosts.speak("HTTP2")
    return hosts


def lines(hosts: Hosts, side: str = "near") -> list[dict[str, object]]:
    path: Path = getattr(hosts, side).access_log
    return [json.loads(line) for line in path.read_text().splitlines()]


def flags(hosts: Hosts, n: int = 1, side: str = "near") -> list[object]:
    wait_for(lambda: len(lines(hosts, side)) >= n)
    return [line["response_flags"] for line in lines(hosts, side)]


def rss(hosts: Hosts, side: str) -> int:
    """Bytes of memory that the worker holds."""
    pid = getattr(hosts, side).process.pid
    fields = Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")
    return 1024 * int(next(x for x in fields if x.startswith("Private_Dirty")).split()[1])


class Silent(Server):
    """Never answers; notes what is reset."""

    def __init__(self, conn: socket.socket, seen: list[tuple[int, int]]) -> None:
        super().__init__(conn)
        self.seen = seen

    def on_end(self, stream: int, message: Message) -> None:
        """Nothing."""

    def on_event(self, event: Event) -> None:
        super().on_event(event)
        code = getattr(event, "error_code", None)
        if code is not None and getattr(event, "stream_id", 0):
            self.seen.append((getattr(event, "stream_id", 0), int(code)))


class Plain:
    """A client on our own engine: the package h2 takes nothing any more after a GOAWAY."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.answered: set[int] = set()
        self.failed: list[int] = []
        self.goaways: list[tuple[int, int]] = []
        self.gone = False
        self.received = b""
        self.engine = new_engine("client", settings_of(MESHD, "client"), self)  # type: ignore[arg-type]
        self.engine.start()

    def __getattr__(self, name: str) -> object:
        """What else a sink is told."""
        return lambda *_: None

    def response(self, stream: int, fields: object, end: bool) -> None:
        pass

    def data(self, stream: int, data: bytes, end: bool) -> None:
        self.engine.taken(stream, len(data))
        if end:
            self.answered.add(stream)

    def reset(self, stream: int, code: int, ours: bool) -> None:
        self.failed.append(stream)

    def goaway(self, last: int, code: int) -> None:
        self.goaways.append((last, code))

    def ask(self) -> int:
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
        return self.engine.request([*head, (b":authority", b"app")], True)

    def send(self) -> None:
        while data := self.engine.output():
            self.sock.sendall(data)

    def until(self, condition: Callable[[], object]) -> None:
        self.send()
        while not condition():
            data = self.sock.recv(65536)
            if not data:
                self.gone = True
                assert condition(), "the worker closed the connection"
                return
            self.received += data
            self.engine.receive(data, time.monotonic())
            self.send()


# Resets


def test_a_client_that_resets_is_heard_by_the_application(app2: Hosts) -> None:
    seen: list[tuple[int, int]] = []
    app2.use(lambda conn: Silent(conn, seen)())
    with app2.connect() as sock:
        client = Client(sock)
        stream = client.ask("/wait")
        wait_for(lambda: app2.application.connections)
        time.sleep(0.1)
        client.reset(stream, CANCEL)
        wait_for(lambda: seen)
        assert seen[0][1] == CANCEL
    assert flags(app2) == ["DC"]


def test_a_client_that_vanishes_is_heard_by_the_application(app2: Hosts) -> None:
    seen: list[tuple[int, int]] = []
    app2.use(lambda conn: Silent(conn, seen)())
    sock = app2.connect()
    client = Client(sock)
    for _ in range(3):
        client.ask("/wait")
    wait_for(lambda: app2.application.connections)
    time.sleep(0.1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    wait_for(lambda: len(seen) == 3)
    assert {code for _, code in seen} == {CANCEL}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (CANCEL, CANCEL),
        (ENHANCE_YOUR_CALM, ENHANCE_YOUR_CALM),
        (INTERNAL_ERROR, INTERNAL_ERROR),
        (NO_ERROR, INTERNAL_ERROR),
        (REFUSED_STREAM, INTERNAL_ERROR),
    ],
)
def test_an_application_that_resets_within_its_answer(app2: Hosts, code: int, told: int) -> None:
    class Half(Server):
        def on_end(self, stream: int, message: Message) -> None:
            self.h2.send_headers(stream, [(":status", "200")])
            self.send(stream, b"half")
            time.sleep(0.2)
            self.reset(stream, code)

    app2.use(lambda conn: Half(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        answer = client.get()
        assert answer.body == b"half" and answer.reset == told and not answer.ended
        app2.use(lambda conn: Server(conn)())
    assert flags(app2) == ["UC"]


def test_an_application_that_resets_before_its_answer(app2: Hosts) -> None:
    class Reset(Server):
        def on_end(self, stream: int, message: Message) -> None:
            self.reset(stream, INTERNAL_ERROR)

    app2.use(lambda conn: Reset(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        answer = client.get()
        assert answer.status == 503 and b"upstream_remote_reset" in answer.body
        rpc = client.get("/s/m", body=b"\0\0\0\0\0", fields=GRPC)
        assert rpc.status == 200 and rpc[b"grpc-status"] == b"14"
    assert flags(app2, 2) == ["-", "-"]
    assert set(flags(app2, 2, "far")) == {"UR"}, "the call was tried again: it was unavailable"


def test_an_early_answer_ends_the_request(app2: Hosts) -> None:
    """A complete answer while the body still arrives: RST_STREAM NO_ERROR follows it."""

    class Early(Server):
        def on_request(self, stream: int, message: Message) -> None:
            self.respond(stream, b"no thanks", status=413)
            self.reset(stream, NO_ERROR)

        def on_end(self, stream: int, message: Message) -> None:
            """Never reached."""

    app2.use(lambda conn: Early(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        stream = client.ask("/upload", end=False)
        client.send(stream, b"x" * 1000)
        answer = client.streams[stream]
        client.until(lambda: answer.reset >= 0)
        assert (answer.status, answer.body, answer.reset) == (413, b"no thanks", NO_ERROR)
        app2.use(lambda conn: Server(conn)())


def test_a_refused_stream_is_tried_again(app2: Hosts) -> None:
    class Once(Server):
        refused = 0

        def on_end(self, stream: int, message: Message) -> None:
            if Once.refused < 2 and message.fields:
                Once.refused += 1
                self.reset(stream, REFUSED_STREAM)
            else:
                super().on_end(stream, message)

    app2.use(lambda conn: Once(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        assert client.get("/r", body=b"once only").body.endswith(b"once only")
        assert Once.refused == 2
    assert flags(app2) == ["-"]


def test_a_stream_refused_after_a_piece_of_its_body(app2: Hosts) -> None:
    """What was sent is remembered, and sent again."""

    class Late(Server):
        refused = 0

        def on_event(self, event: Event) -> None:
            if getattr(event, "data", None) and not Late.refused:
                Late.refused += 1
                self.reset(getattr(event, "stream_id", 0), REFUSED_STREAM)
            else:
                super().on_event(event)

    app2.use(lambda conn: Late(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        stream = client.ask("/r", end=False)
        client.send(stream, b"first,")
        wait_for(lambda: Late.refused)
        time.sleep(0.2)
        client.send(stream, b"second", end=True)
        assert client.answer(stream).body.endswith(b"\n\nfirst,second")


# gRPC


def test_retry_words_of_grpc(app2: Hosts) -> None:
    class Unavailable(Server):
        calls = 0

        def on_end(self, stream: int, message: Message) -> None:
            Unavailable.calls += 1
            status = "14" if Unavailable.calls < 3 else "0"
            fields = [("content-type", "application/grpc"), ("grpc-status", status)]
            self.respond(stream, fields=fields)

    app2.use(lambda conn: Unavailable(conn)())
    policy = RetryPolicy(attempts=2, retry_on=("unavailable",), backoff_base=0.01)
    app2.apply(app2.outbound(retry=policy))
    with app2.connect() as sock:
        answer = Client(sock).get("/s/m", body=b"\0\0\0\0\0", fields=GRPC)
        assert answer[b"grpc-status"] == b"0" and Unavailable.calls == 3
    wait_for(lambda: lines(app2))
    assert count(app2, "meshd_retries_total") == 2


def test_deadlines(app2: Hosts) -> None:
    seen: list[tuple[int, int]] = []
    app2.use(lambda conn: Silent(conn, seen)())
    with app2.connect() as sock:
        client = Client(sock)
        before = time.monotonic()
        rpc = client.get("/s/m", body=b"\0\0\0\0\0", fields=[*GRPC, ("grpc-timeout", "1S")])
        assert 0.9 < time.monotonic() - before < 8
        assert rpc.status == 200 and rpc[b"grpc-status"] == b"4"
        wait_for(lambda: seen)
        app2.apply(app2.outbound(timeout=0.2))
        plain = client.get("/slow")
        assert plain.status == 504 and b"upstream_timeout" in plain.body
        short = client.get("/s/m", body=b"\0\0\0\0\0", fields=[*GRPC, ("grpc-timeout", "1H")])
        assert short[b"grpc-status"] == b"4", "the route's limit is the smaller one"


def test_grpc_callers_get_statuses(app2: Hosts) -> None:
    with app2.connect() as sock:
        client = Client(sock)
        missing = client.get("/s/m", body=b"\0\0\0\0\0", fields=GRPC, host="nowhere")
        assert (missing.status, missing[b"grpc-status"]) == (200, b"12")
        assert b"host_not_found" in missing[b"grpc-message"]


# The end of connections


def test_goaway_of_applications_fails_nothing(app2: Hosts) -> None:
    """An application that ends its connections all the time, under load."""

    class Leaving(Server):
        served = 0

        def on_end(self, stream: int, message: Message) -> None:
            super().on_end(stream, message)
            self.served += 1
            if self.served == 100:
                # Streams above this one may be on their way: they were not looked at.
                self.h2.close_connection(last_stream_id=stream)
                self.flush()
                self.sock.shutdown(socket.SHUT_WR)
                while self.sock.recv(65536):
                    pass
                raise OSError("enough")

    app2.use(lambda conn: Leaving(conn)())
    statuses: list[int] = []

    def load() -> None:
        with app2.connect() as sock:
            client = Client(sock)
            for _ in range(40):
                streams = [client.ask("/g") for _ in range(8)]
                statuses.extend(client.answer(stream).status for stream in streams)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 960
    assert app2.application.connections > 5


def test_a_drain_fails_nothing(app2: Hosts) -> None:
    """The worker says GOAWAY, serves what crosses it, and leaves when all is done."""

    class Slow(Server):
        def on_end(self, stream: int, message: Message) -> None:
            time.sleep(0.02)
            super().on_end(stream, message)

    app2.use(lambda conn: Slow(conn)())
    with app2.connect() as sock:
        client = Plain(sock)
        client.ask()
        client.until(lambda: client.answered)
        streams = [client.ask() for _ in range(10)]
        client.send()
        wait_for(lambda: app2.application.connections)
        app2.near.process.send_signal(signal.SIGTERM)
        client.until(lambda: client.goaways)
        assert client.goaways == [(2**31 - 1, NO_ERROR)], "a notice first"
        client.until(lambda: client.answered >= {*streams})
        client.until(lambda: client.gone)
        assert client.received.endswith(goaway_frame(streams[-1], NO_ERROR))
        assert not client.failed
    app2.near.process.wait(10)


def test_a_drain_between_hosts_fails_nothing(app2: Hosts) -> None:
    """The inbound worker leaves: the outbound one's streams end, new ones need a new worker."""
    with app2.connect() as sock:
        client = Client(sock)
        assert client.get().status == 200
        stream = client.ask("/open", end=False)
        client.send(stream, b"before ")
        time.sleep(0.2)
        app2.far.process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        client.send(stream, b"after", end=True)
        assert client.answer(stream).body.endswith(b"before after")
    app2.far.process.wait(10)


def test_an_upstream_that_dies_within_a_stream(app2: Hosts) -> None:
    class Dies(Server):
        def on_end(self, stream: int, message: Message) -> None:
            self.h2.send_headers(stream, [(":status", "200")])
            self.send(stream, b"part")
            time.sleep(0.2)
            raise OSError("gone")

    app2.use(lambda conn: Dies(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        answer = client.get()
        assert answer.body == b"part" and answer.reset == INTERNAL_ERROR
        app2.use(lambda conn: Server(conn)())
        assert client.get().status == 200, "and the connection serves on"


def test_a_connection_that_dies_without_a_word(app2: Hosts) -> None:
    """It had served before: what may run twice is tried again, once (the safety rule)."""

    class Mute(Server):
        def on_end(self, stream: int, message: Message) -> None:
            if message[b":path"] == b"/die":
                Mute.deaths += 1
                if Mute.deaths % 2:
                    raise OSError("gone")
            super().on_end(stream, message)

        deaths = 0

    app2.use(lambda conn: Mute(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        assert client.get().status == 200
        assert client.get("/die").status == 200 and Mute.deaths == 2
        assert client.get("/die", body=b"x").status == 503 and Mute.deaths == 3


def test_secure_naming_holds_for_http2(app2: Hosts) -> None:
    """An endpoint of another identity gets no byte of any request."""
    host = app2.outbound()
    cluster = host.clusters[CLUSTER]
    from dataclasses import replace

    other = replace(cluster, accounts=(identity("other"),))
    app2.apply(replace(host, clusters={CLUSTER: other}))
    with app2.connect() as sock:
        client = Client(sock)
        streams = [client.ask() for _ in range(5)]
        answers = [client.answer(stream) for stream in streams]
    assert {a.status for a in answers} == {503}
    assert all(b"upstream_identity_refused" in a.body for a in answers)
    assert app2.application.connections == 0
    assert set(flags(app2, 5)) == {"UF"}


def test_an_application_that_speaks_no_http2(hosts: Hosts) -> None:
    hosts.speak("HTTP2")  # but it is the HTTP/1.1 echo
    with hosts.connect() as sock:
        answer = Client(sock).get()
        assert answer.status in (502, 503)
    assert hits(hosts, "far")


# Slow readers


class Flood(Server):
    """Answers with as much as anybody takes."""

    def on_end(self, stream: int, message: Message) -> None:
        self.h2.send_headers(stream, [(":status", "200")])
        size = 2_000_000 if message[b":path"] == b"/big" else 1000
        threading.Thread(target=self._fill, args=(stream, size), daemon=True).start()

    def _fill(self, stream: int, size: int) -> None:
        """Not `send`: several threads share the connection."""
        while size:
            with self.lock:
                if self.streams[stream].reset >= 0:
                    return
                window = self.h2.local_flow_control_window(stream)
                room = min(size, window, self.h2.max_outbound_frame_size)
                if room:
                    self.h2.send_data(stream, bytes(room), end_stream=room == size)
                    size -= room
                    self.sock.sendall(self.h2.data_to_send())
            if not room:
                time.sleep(0.005)

    def __init__(self, conn: socket.socket) -> None:
        super().__init__(conn)
        self.lock = threading.Lock()

    def pump(self) -> list[Event]:
        data = self.sock.recv(65536)
        if not data:
            self.gone = True
            return []
        with self.lock:
            events = self.h2.receive_data(data)
            for event in events:
                self._note(event)
            self.sock.sendall(self.h2.data_to_send())
        return events

    def flush(self) -> None:
        with self.lock:
            self.sock.sendall(self.h2.data_to_send())


def test_stalled_streams_hold_nobody_else_up(app2: Hosts) -> None:
    """50 streams that nobody reads; the 51st, on the same connections, is as fast as ever."""
    app2.use(lambda conn: Flood(conn)())
    with app2.connect() as sock, app2.connect() as other:
        stalled, free = Client(sock, credit=False), Client(other)
        free.get("/small")
        rest = {side: rss(app2, side) for side in ("near", "far")}
        for _ in range(50):
            stalled.ask("/big")
        time.sleep(1.5)
        stalled.sock.settimeout(1)
        grown = {side: rss(app2, side) - rest[side] for side in ("near", "far")}
        assert max(grown.values()) < 50 * 256 * 1024, grown
        before = time.monotonic()
        for _ in range(20):
            assert len(free.get("/small").body) == 1000
        assert time.monotonic() - before < 4
        big = free.get("/big")
        assert len(big.body) == 2_000_000
        assert app2.application.connections == 1


def test_a_slow_reader_costs_little(app2: Hosts) -> None:
    app2.use(lambda conn: Flood(conn)())
    with app2.connect() as sock, app2.connect() as other:
        free = Client(other)
        for _ in range(20):
            free.get("/small")
        rest = {side: rss(app2, side) for side in ("near", "far")}
        slow = Client(sock, credit=False)
        stream = slow.ask("/big")
        slow.until(lambda: len(slow.streams[stream].body) == 65_535)
        time.sleep(0.5)
        for side in ("near", "far"):
            assert rss(app2, side) - rest[side] < 600 * 1024, "256 KiB, and the heap's grain"


def test_a_body_that_the_application_does_not_take(app2: Hosts) -> None:
    """The client is held up by its own windows; another stream passes it."""

    class Picky(Server):
        def on_event(self, event: Event) -> None:
            if isinstance(event, RequestReceived):
                self.credit = dict(event.headers)[b":path"] != b"/held"
            super().on_event(event)

    app2.use(lambda conn: Picky(conn)())
    with app2.connect() as sock:
        client = Client(sock)
        stream = client.ask("/held", end=False)
        sent = 0
        client.sock.settimeout(0.5)
        while sent < 1_000_000:
            room = client.h2.local_flow_control_window(stream)
            if not room:
                try:
                    client.pump()
                except TimeoutError:
                    break
                continue
            room = min(room, 16_384)
            client.h2.send_data(stream, bytes(room))
            client.flush()
            sent += room
        assert 64_000 < sent < 600_000, "each hop holds its window and its queue, no more"


# Credit


def narrow(hosts: Hosts) -> None:
    """Connections of eight windows, 512 KiB: what is lost of one shows soon."""
    limits = {"http2_streams": 8, "http2_connection_window": 512 * 1024}
    for side in ("near", "far"):
        config = hosts.configs[side]
        hosts.configs[side] = replace(config, limits=limits)
    hosts.speak("HTTP2")


def test_downloads_that_are_left_cost_their_neighbours_no_window(app2: Hosts) -> None:
    """The piece that a worker had in hand is given back to the connection that others share."""
    app2.use(lambda conn: Flood(conn)())
    narrow(app2)
    with app2.connect() as other:
        free = Client(other)
        free.get("/small")
        for _ in range(6):
            socks = [app2.connect() for _ in range(7)]
            for client in [Client(sock, credit=False) for sock in socks]:
                stream = client.ask("/big")
                client.until(lambda client=client, s=stream: len(client.streams[s].body) > 65_000)
            time.sleep(0.3)  # until every hop holds as much as it may
            for sock in socks:
                sock.close()
        assert len(free.get("/big").body) == 2_000_000
        assert app2.application.connections == 1


def test_uploads_that_are_left_cost_their_neighbours_no_window(app2: Hosts) -> None:
    class Picky(Server):
        """Takes no more of /held than its window, and leaves the connection's to others."""

        def __init__(self, conn: socket.socket) -> None:
            super().__init__(conn)
            self.credit = False

        def on_event(self, event: Event) -> None:
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                size, stream = event.flow_controlled_length, event.stream_id
                if self.streams[stream][b":path"] == b"/held":
                    self.h2.increment_flow_control_window(size)
                else:
                    self.h2.acknowledge_received_data(size, stream)
                self.flush()
            super().on_event(event)

    app2.use(lambda conn: Picky(conn)())
    narrow(app2)
    with app2.connect() as sock:
        client = Client(sock)
        for _ in range(48):
            stream = client.ask("/held", end=False)
            _until_held_up(client, stream)
            client.reset(stream)
        assert client.get("/taken", body=bytes(300_000)).status == 200


def _until_held_up(client: Client, stream: int) -> None:
    """Send until no more credit comes for a moment."""
    client.sock.settimeout(0.05)
    while True:
        room = min(client.h2.local_flow_control_window(stream), 16_384)
        if room:
            client.h2.send_data(stream, bytes(room))
            client.flush()
            continue
        try:
            client.pump()
        except TimeoutError:
            client.sock.settimeout(SECONDS)
            return
