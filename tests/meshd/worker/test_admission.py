"""Admission in made-up time: sources, buckets, places given back."""

from __future__ import annotations

from typing import cast

import pytest

from meshd.worker.admission import MAX_BUCKETS, Admission, Bucket, source_of
from meshd.worker.stream import Stream
from meshkit.http.limits import GATEWAY, Limits
from meshkit.snapshot.types import ListenerSpec

ONE = ListenerSpec("one", "edge", "127.0.0.1", 1)
TWO = ListenerSpec("two", "edge", "127.0.0.1", 2)


class FakeStream:
    closed = False

    def close(self) -> None:
        self.closed = True


def stream() -> Stream:
    return cast(Stream, FakeStream())


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_one_client_is_an_address_or_a_network_of_64_bits(address: str, source: str) -> None:
    assert source_of(address) == source


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(3, 100.0)
    assert [bucket.take(2, 3, 100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(2, 3, 100.5) for _ in range(2)] == [True, False]
    assert [bucket.take(2, 3, 200.0) for _ in range(4)] == [True, True, True, False]


def test_places_are_counted_by_listener_and_source_and_given_back() -> None:
    limits = Limits(listener_connections=3, source_connections=2)
    admission = Admission()
    assert [admission.enter(ONE, "a", limits) for _ in range(3)] == ["", "", "source_connections"]
    assert admission.enter(ONE, "b", limits) == ""
    assert admission.enter(ONE, "c", limits) == "listener_connections"
    assert admission.enter(TWO, "c", limits) == ""
    assert admission.total == 4
    admission.leave(ONE, "a")
    assert admission.enter(ONE, "a", limits) == ""
    admission.most = admission.total
    assert admission.enter(TWO, "d", limits) == "connections"


def test_handshakes_at_a_gateway_come_at_its_rate() -> None:
    admission = Admission()
    results = [admission.handshake(stream(), "a", GATEWAY, 10.0) for _ in range(201)]
    assert results == [""] * 200 + ["handshake_rate"]
    assert admission.handshake(stream(), "b", GATEWAY, 10.0) == ""
    later = [admission.handshake(stream(), "a", GATEWAY, 11.0) for _ in range(51)]
    assert later == [""] * 50 + ["handshake_rate"]


def test_the_oldest_handshake_makes_room() -> None:
    limits, admission = Limits(unfinished_handshakes=2), Admission()
    first, second, third, fourth = (stream() for _ in range(4))
    assert admission.handshake(first, "a", limits, 1.0) == ""
    assert admission.handshake(second, "a", limits, 1.0) == ""
    admission.handshaken(first)
    admission.handshaken(first)
    assert admission.handshake(third, "a", limits, 1.0) == ""
    assert admission.handshake(fourth, "a", limits, 1.0) == "unfinished_handshakes"
    assert [s.closed for s in (first, second, third, fourth)] == [False, True, False, False]


def test_buckets_are_forgotten_when_they_are_full_again_and_never_too_many() -> None:
    admission = Admission()
    for number in range(MAX_BUCKETS + 1):
        admission.handshake(stream(), str(number), GATEWAY, 1.0)
    assert len(admission._buckets) == 1
    admission.sweep(4.9, GATEWAY)
    assert len(admission._buckets) == 1
    admission.sweep(5.0, GATEWAY)
    assert not admission._buckets
