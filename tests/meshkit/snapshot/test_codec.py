"""Canonical bytes: equal values, equal bytes; strict on the way back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.model.resources import HeaderOperations, HTTPMatch, StringMatch
from meshkit.names import MeshSettings
from meshkit.snapshot import types
from meshkit.snapshot.codec import (
    CodecError,
    content_hash,
    decode,
    decode_host,
    decode_outbound,
    encode,
)

ENDPOINT = types.Endpoint("10.0.0.1", 15443, "p1.any.a.b.mesh", 2, "v1", {"b": "2", "a": "1"})
HOST = types.OutboundHost(
    "reviews.default.svc.cluster.local",
    "reviews",
    "default",
    {
        9080: (
            types.Route(
                "r",
                (HTTPMatch(headers=(("end-user", StringMatch("exact", "ü")),)),),
                (types.Destination("c", 1, HeaderOperations(set=(("x", "1"),))),),
                timeout=2.0,
                retry=types.RetryPolicy(0, 0.5, ()),
            ),
        )
    },
    {"c": types.Cluster("c", "RANDOM", (ENDPOINT,), ("spiffe://td/ns/b/sa/a",))},
)


def test_round_trip_of_every_part() -> None:
    assert decode_outbound(encode(HOST)) == HOST


def test_round_trip_of_the_host_config() -> None:
    config = types.HostConfig(
        "vm1",
        MeshSettings(),
        (
            types.ListenerSpec("l", "local", "127.0.0.1", 1, upstream=("h", 80), owner="a/b/c"),
            types.ListenerSpec("c", "capture", "127.0.0.1", 2, owner="a/b/c", protocol="AUTO"),
        ),
        (
            types.Workload(
                "d/r/v1",
                "r",
                "d",
                "v1",
                "spiffe://x",
                7,
                {},
                (types.WorkloadPort(1, "127.0.0.1", 2, "HTTP", "STRICT"),),
            ),
        ),
        edge=(types.EdgeServer("e", "s", ("*",), protocol="TCP", passthrough=True),),
        limits={"headerBytes": 5},
    )
    assert decode_host(encode(config)) == config


def test_round_trip_of_tcp_routes() -> None:
    to = (types.Destination("outbound|5432||db", 1),)
    tcp = {
        443: (types.TCPRoute("sni", ("*.x", "y"), to, "default"), types.TCPRoute("", (), to)),
        5432: (types.TCPRoute("", (), to, idle_timeout=60.0),),
    }
    host = types.OutboundHost("db", "db", "default", {}, {}, tcp)
    assert decode_outbound(encode(host)) == host


def test_round_trip_of_addresses() -> None:
    table = types.AddressTable(
        {"10.0.0.7:5432": ("db", 5432), "*:6379": ("cache", 6379)},
        (("10.0.0.0/8", 5432, "db", 5432),),
    )
    assert decode(types.AddressTable, encode(table)) == table


def test_what_is_http_says_no_protocol() -> None:
    """So that the bytes, and with them the hashes, are those of earlier releases."""
    assert b"tcp" not in encode(HOST)
    edge = types.EdgeServer("edge:443", "gateway|a/b|443|0", ("*",), "cert")
    assert json.loads(encode(edge)).keys() == {"listener", "scope", "hosts", "certificate"}


def test_fields_at_their_default_are_left_out() -> None:
    assert json.loads(encode(types.Endpoint("a", 1))) == {"address": "a", "port": 1}


def test_order_of_a_mapping_does_not_show() -> None:
    other = types.Endpoint("10.0.0.1", 15443, "p1.any.a.b.mesh", 2, "v1", {"a": "1", "b": "2"})
    assert encode(other) == encode(ENDPOINT)


def test_a_whole_float_and_an_integer_give_the_same_bytes() -> None:
    assert encode(types.RetryPolicy(2, 1)) == encode(types.RetryPolicy(2, 1.0))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"address":"a","port":1,"colour":"red"}', "unknown field"),
        ('{"address":"a"}', "missing field"),
        ('{"address":"a","port":"1"}', "a string where an integer belongs"),
        ('{"address":"a","port":true}', "a boolean is not an integer"),
        ('{"address":"a","port":1,"labels":[]}', "a list where an object belongs"),
        ('{"address":"a","port":1,"labels":{"a":1}}', "a label that is not a string"),
        ("[]", "not an object"),
        ("null", "not an object"),
        ('{"address":"a","port":NaN}', "NaN is not JSON"),
        ("{", "cut short"),
        ("[" * 100_000, "nested without end"),
    ],
)
def test_anything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(CodecError):
        decode(types.Endpoint, text.encode())


def test_an_unlisted_word_is_refused() -> None:
    with pytest.raises(CodecError, match="none of"):
        decode(types.Cluster, b'{"name":"c","balancer":"BEST","endpoints":[]}')


@pytest.mark.parametrize("key", ["+1", "01", " 1", "x"])
def test_an_integer_key_has_one_spelling(key: str) -> None:
    text = json.dumps(
        {"host": "h", "service": "s", "namespace": "n", "clusters": {}, "ports": {key: []}}
    )
    with pytest.raises(CodecError):
        decode_outbound(text.encode())


def test_hash_is_a_prefix_of_sha256() -> None:
    assert content_hash(b"") == "e3b0c44298fc1c149afbf4c8996fb924"


TEXT = st.text(max_size=8)


@given(TEXT, st.integers(0, 65535), st.dictionaries(TEXT, TEXT, max_size=3), st.integers(1, 9))
def test_any_endpoint_comes_back(
    address: str, port: int, labels: dict[str, str], weight: int
) -> None:
    endpoint = types.Endpoint(address, port, weight=weight, labels=labels)
    assert decode(types.Endpoint, encode(endpoint)) == endpoint


@pytest.mark.parametrize("row", ['["db"]', '["db",true]', '["db",1.0]', '[1,"db"]', '"db"', "{}"])
def test_a_row_of_an_address_table_is_what_it_says(row: str) -> None:
    with pytest.raises(CodecError, match="expected str, int"):
        decode(types.AddressTable, b'{"entries":{"10.0.0.1:1":%s}}' % row.encode())
