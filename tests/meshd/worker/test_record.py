"""What requests and connections leave behind: series, and their lines in the access log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshd.counters import CounterFile, read
from meshd.worker.entry import Entry
from meshd.worker.record import Recorder, TCPRecord
from meshd.worker.record_tcp import REPORT_SECONDS
from meshd.worker.series import MAX_FACTS, LabelSets, Place
from meshd.worker.transfer import Transfer
from meshkit.http.h1 import RequestHead
from meshkit.snapshot.types import OutboundHost
from meshkit.telemetry.metrics import SIZE_BOUNDS, bucket
from meshkit.telemetry.peer import Facts, encode_facts

HOST = OutboundHost("db.default.svc.cluster.local", "db", "default", {}, {})


@dataclass
class Log:
    enabled: bool = True
    lines: list[dict[str, Any]] = field(default_factory=list)

    def add(self, line: bytes) -> None:
        self.lines.append(json.loads(line))


class World:
    """A recorder, what it counted and what it logged."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "counters"
        self.counters = CounterFile(self.path)
        self.log = Log()
        loop = SimpleNamespace(fibers={})
        self.ctx = cast(
            Any,
            SimpleNamespace(
                counters=self.counters,
                log=self.log,
                loop=loop,
                connections=0,
                tunnels=0,
                upstream_connections=lambda: 0,
                upstream_idle=lambda: 0,
                watch=SimpleNamespace(in_flight=0),
            ),
        )
        self.recorder = Recorder(self.ctx)
        self.entry = Entry(self.ctx, cast(Any, None), "10.0.0.1:1", "10.0.0.2:2")
        self.entry.who = "spiffe://cluster.local/ns/default/sa/web"

    def request(self, **values: Any) -> Transfer:
        """A finished request with these attributes."""
        down = cast(Any, SimpleNamespace(entry=self.entry, ctx=self.ctx))
        head = RequestHead(b"GET", b"/", False, [])
        x = Transfer(down, head, 0.0)
        x.status = 200
        for name, value in values.items():
            setattr(x, name, value)
        self.recorder.request(cast(Any, x))
        return x

    def tcp(self, **values: Any) -> TCPRecord:
        record = TCPRecord(self.entry)
        record.destination = HOST
        for name, value in values.items():
            setattr(record, name, value)
        return record

    def series(self, name: str) -> dict[tuple[str, ...], tuple[int, ...]]:
        """(protocol, flags, gRPC status, source service's facts) → cells."""
        keys = ("request_protocol", "response_flags", "grpc_response_status")
        found = [(dict(s.labels), s.values) for s in read(self.path) if s.name == name]
        return {tuple(labels.get(k, "") for k in keys): cells for labels, cells in found}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.counters.close()


def test_sizes_are_counted_within_a_second(world: World) -> None:
    for got, sent in ((0, 1024), (0, 0), (70, 2**40), (0, 1024)):
        world.request(bytes_in=got, bytes_out=sent)
    assert world.series("istio_requests_total") == {("http", "-", ""): (4,)}
    for _ in range(2):  # a second look adds nothing
        world.recorder.gauges()
    got_cells = world.series("istio_request_bytes")["http", "-", ""]
    sent_cells = world.series("istio_response_bytes")["http", "-", ""]
    assert (got_cells[0], got_cells[bucket(SIZE_BOUNDS, 70)], got_cells[-1]) == (3, 1, 70)
    assert sent_cells[bucket(SIZE_BOUNDS, 1024)] == 2 and sent_cells[0] == 1
    assert sent_cells[-2] == 1 and sent_cells[-1] == 2**40 + 2048
    assert sum(got_cells[:-1]) == sum(sent_cells[:-1]) == 4


def test_counters_of_messages_are_looked_up_once_for_each_peer_of_a_route(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = SimpleNamespace(series={}, messages={}, destination=HOST, local=None, name="db")
    looked_up: list[tuple[str, ...]] = []
    stream = LabelSets.stream

    def counting(sets: LabelSets, names: tuple[str, ...], *rest: Any) -> tuple[int, ...]:
        looked_up.append(names)
        return stream(sets, names, *rest)

    monkeypatch.setattr(LabelSets, "stream", counting)
    for facts in (b"", encode_facts(Facts("db", "default", "v1")), b"", b""):
        world.request(grpc=True, action=action, peer_facts=facts, messages_in=1, messages_out=2)
    assert len(looked_up) == 2
    cells = [s.values for s in read(world.path) if s.name == "istio_response_messages_total"]
    assert sorted(cells) == [(2,), (6,)]


def test_grpc_has_its_own_status_and_messages(world: World) -> None:
    x = world.request(grpc=True, grpc_status="5", protocol=b"HTTP/2", messages_in=2, messages_out=3)
    world.request(grpc=True, grpc_status="5", protocol=b"HTTP/2")
    world.request()
    assert world.series("istio_requests_total") == {
        ("grpc", "-", "5"): (2,),
        ("http", "-", ""): (1,),
    }
    assert world.series("istio_request_messages_total") == {("grpc", "-", ""): (2,)}
    assert world.series("istio_response_messages_total") == {("grpc", "-", ""): (3,)}
    x.messages_out = 10
    world.recorder.messages(cast(Any, x))
    assert world.series("istio_response_messages_total") == {("grpc", "-", ""): (10,)}
    first, _, last = world.log.lines
    assert (first["protocol"], first["grpc_status"]) == ("HTTP/2", "5")
    assert last["protocol"] == "HTTP/1.1" and "grpc_status" not in last


def test_a_connection_is_counted_while_it_lives(world: World) -> None:
    tcp = world.tcp()
    world.recorder.opened(tcp)
    tcp.bytes_in, tcp.bytes_out = 10, 20
    for _ in range(REPORT_SECONDS):
        world.recorder.gauges()
    opened, received = "istio_tcp_connections_opened_total", "istio_tcp_received_bytes_total"
    assert world.series(opened) == {("tcp", "-", ""): (1,)}
    assert world.series(received) == {("tcp", "-", ""): (10,)}
    tcp.bytes_in, tcp.bytes_out, tcp.flags = 11, 22, "UC"
    world.recorder.connection(tcp)
    assert world.series(received) == {("tcp", "-", ""): (11,)}
    assert world.series("istio_tcp_sent_bytes_total") == {("tcp", "-", ""): (22,)}
    assert world.series("istio_tcp_connections_closed_total")["tcp", "UC", ""] == (1,)
    assert world.series(opened)["tcp", "-", ""] == (1,)


def test_a_connection_that_was_never_served_is_opened_and_closed(world: World) -> None:
    world.recorder.connection(world.tcp(flags="UF"))
    assert world.series("istio_tcp_connections_opened_total")["tcp", "-", ""] == (1,)
    assert world.series("istio_tcp_connections_closed_total")["tcp", "UF", ""] == (1,)


def test_a_connection_has_one_line_with_the_keys_of_a_request(world: World) -> None:
    tcp = world.tcp(
        route_name="r",
        cluster_name="outbound|5432||db",
        upstream=b"10.0.0.3:15443",
        upstream_local=b"10.0.0.1:40000",
        bytes_in=1,
        bytes_out=2,
        flags="UF",
        details="upstream_connection_failure",
        failure="refused",
        termination="idle",
        server_name="db.example",
    )
    world.recorder.connection(tcp)
    (line,) = world.log.lines
    for key in ("method", "path", "protocol", "authority", "request_id", "user_agent"):
        assert line[key] == "-"
    assert line["response_code"] == 0 and line["response_flags"] == "UF"
    assert (line["bytes_received"], line["bytes_sent"]) == (1, 2)
    assert line["upstream_host"] == "10.0.0.3:15443"
    assert line["requested_server_name"] == "db.example"
    assert line["connection_termination_details"] == "idle"
    assert line["upstream_transport_failure_reason"] == "refused"


def test_what_a_peer_says_of_itself_is_bounded(world: World) -> None:
    for number in range(MAX_FACTS + 10):
        facts = encode_facts(Facts(workload=f"w{number}"))
        world.recorder.connection(world.tcp(peer_facts=facts, upstream=b"10.0.0.3:15443"))
    name = "istio_tcp_connections_closed_total"
    said = {dict(s.labels)["destination_workload"] for s in read(world.path) if s.name == name}
    assert len(said) == MAX_FACTS + 1 and "unknown" in said


def test_a_new_configuration_makes_no_new_label_sets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshd.worker.series.MAX_SERIES", 2)
    sets = LabelSets(world.counters)
    place = Place(world.entry, HOST, None, world.entry.who, b"")
    first = sets.request(place, 200, "-", None)
    for _ in range(5):
        assert sets.request(place, 200, "-", None) is first
    sets.request(place, 404, "-", None)
    third = sets.request(place, 503, "-", None)
    assert sets.request(place, 500, "-", None) is third  # all unknown
