"""Addresses of captured connections: whose they are, and which are nobody's."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.model.resources import LocalService, Port, ServiceEntry, WorkloadEntrySpec
from meshkit.names import ServiceName
from meshkit.routing.addresses import find
from meshkit.routing.compile import Compiler
from meshkit.routing.inputs import HostParts
from meshkit.snapshot.codec import decode
from meshkit.snapshot.types import ADDRESSES, AddressTable

APP = LocalService("app", "default", "app", "v1", {}, (), capture="127.0.0.1:15101")
HERE = HostParts("vm1", "10.0.0.9", 15443, services=(APP,), uids={"": 0})


def table(look: Any) -> AddressTable:
    digest = look.snapshot.scopes["default"][ADDRESSES]
    return decode(AddressTable, look.snapshot.blobs[digest])


def entry(make: Any, host: str, *ports: Port, addresses: tuple[str, ...] = ()) -> ServiceEntry:
    meta = make.meta("ServiceEntry", host.partition(".")[0])
    return ServiceEntry(
        meta, (host,), ports, endpoints=(WorkloadEntrySpec("192.0.2.9"),), addresses=addresses
    )


def test_nobody_captured_no_table(mesh: Any) -> None:
    look = mesh()
    assert all(ADDRESSES not in hosts for hosts in look.snapshot.scopes.values())


def test_instances_stand_for_their_service_and_port(make: Any, mesh: Any) -> None:
    name = ServiceName("default", "db")
    found = (
        make.instance("a", "10.0.0.1", 5432, "TCP"),
        make.instance("b", "FD00::0:1", 5432, "TCP"),
    )
    look = mesh(host=HERE, naming={}, instances={name: found})
    target = ("db.default.svc.cluster.local", 5432)
    assert table(look).entries == {"10.0.0.1:5432": target, "[fd00::1]:5432": target}
    assert look.problems == []


def test_a_shared_address_is_the_first_hosts_where_host_tells_them_apart(mesh: Any) -> None:
    """reviews and ratings have the same two addresses and port, both HTTP."""
    entries = table(mesh(host=HERE)).entries
    assert entries["10.0.0.1:9080"] == ("ratings.default.svc.cluster.local", 9080)


def test_a_shared_address_of_bytes_is_nobodys_and_said(make: Any, mesh: Any) -> None:
    found = (make.instance("a", "10.0.0.1", 5432, "TCP"),)
    instances = {ServiceName("default", name): found for name in ("a", "b")}
    look = mesh(host=HERE, naming={}, instances=instances)
    assert table(look).entries == {}
    assert look.problems == ["ambiguous-address"]


@pytest.mark.parametrize(
    ("address", "port", "found"),
    [
        ("203.0.113.7", 5432, ("db.example", 5432)),
        ("10.7.1.2", 5432, ("db.example", 5432)),
        ("192.0.2.9", 15432, ("db.example", 5432)),
        ("192.0.2.9", 5432, None),
        ("198.51.100.1", 5432, None),
    ],
)
def test_an_entrys_addresses_networks_and_endpoints(
    make: Any, mesh: Any, address: str, port: int, found: tuple[str, int] | None
) -> None:
    ports = (Port(5432, "TCP", "pg", 15432),)
    entries = entry(make, "db.example", *ports, addresses=("203.0.113.7", "10.7.0.0/16"))
    look = mesh(entries, host=HERE, naming={}, instances={})
    assert find(table(look), address, port) == found


def test_trap_a_tcp_port_without_address_is_matched_by_its_number(make: Any, mesh: Any) -> None:
    resources = (
        entry(make, "db.example", Port(5432, "TCP", "pg")),
        entry(make, "web.example", Port(80, "HTTP", "web")),
        entry(make, "api.example", Port(443, "TLS", "tls")),
    )
    held = table(mesh(*resources, host=HERE, naming={}, instances={}))
    assert find(held, "198.51.100.1", 5432) == ("db.example", 5432)
    assert find(held, "198.51.100.1", 80) is None
    assert find(held, "198.51.100.1", 443) == ("", 443), "the server name says which"


def test_entries_on_one_number_are_told_apart_by_name_or_not_at_all(make: Any, mesh: Any) -> None:
    resources = [
        entry(make, f"{name}.example", Port(443, "HTTPS", "s"), Port(5432, "TCP", "t"))
        for name in ("a", "b")
    ]
    look = mesh(*resources, host=HERE, naming={}, instances={})
    assert find(table(look), "198.51.100.1", 443) == ("", 443)
    assert find(table(look), "198.51.100.1", 5432) is None
    assert find(table(look), "192.0.2.9", 443) == ("", 443)
    assert set(look.problems) == {"ambiguous-address"}


def test_the_longest_network_comes_first(make: Any, mesh: Any) -> None:
    port = Port(1, "TCP", "t")
    resources = (
        entry(make, "wide.example", port, addresses=("10.0.0.0/8",)),
        entry(make, "narrow.example", port, addresses=("10.1.0.0/16",)),
    )
    held = table(mesh(*resources, host=HERE, naming={}, instances={}))
    assert [row[0] for row in held.networks] == ["10.1.0.0/16", "10.0.0.0/8"]
    assert find(held, "10.1.2.3", 1) == ("narrow.example", 1)


def test_an_unchanged_table_is_not_made_again(make: Any, mesh: Any) -> None:
    compiler = Compiler()
    one = mesh(host=HERE, compiler=compiler)
    kept = compiler._addresses
    assert mesh(host=HERE, compiler=compiler).snapshot.revision == one.snapshot.revision
    assert compiler._addresses is kept
    gone = mesh(host=HERE, instances={}, compiler=compiler)
    assert table(gone).entries == {}


def test_every_caller_of_a_scope_shares_it_and_other_scopes_have_none(mesh: Any) -> None:
    look = mesh(host=HERE, scopes=frozenset(("default", "prod")))
    assert [scope for scope, hosts in look.snapshot.scopes.items() if ADDRESSES in hosts] == [
        "default"
    ]
