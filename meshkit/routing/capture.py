"""From services to the `AddressTable` of captured connections.

Every address that a caller may have resolved stands for a service: those of its
instances with the service's port, and the ``addresses`` of a ServiceEntry.  ⚠ A TCP
port of an entry without addresses is matched by its number alone (istio-semantics 4);
of a TLS port the server name then says the service.

Several services may share an address.  HTTP tells them apart by Host and TLS by the
server name; bytes cannot be told apart, and a wrong guess would carry them to a
stranger: such an address is left out, and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

from meshkit.model.problems import NOWHERE, Problem, Severity
from meshkit.routing.addresses import address_key
from meshkit.routing.names import AUTO, HTTP_PROTOCOLS, TLS_PROTOCOLS
from meshkit.routing.services import Service
from meshkit.snapshot.types import AddressTable

Claim = tuple[str, int, str]
"""(host, service port, protocol)"""

BY_NAME = ""
"""The host of an entry whose connections are told apart by their server name."""


def address_table(services: Iterable[Service]) -> tuple[AddressTable, tuple[Problem, ...]]:
    """The table, and the addresses that could not be given to anybody.

    It is made anew whenever one endpoint moves, out of tens of thousands: an address
    of one service alone, as nearly all are, costs one look-up.
    """
    sole: dict[str, Claim] = {}
    shared: dict[str, set[Claim]] = {}
    for service in services:
        for key, claim in _claims(service):
            first = sole.setdefault(key, claim)
            if first is not claim and first != claim:
                shared.setdefault(key, {first}).add(claim)
    entries = {key: (host, port) for key, (host, port, _) in sole.items()}
    problems = []
    for key in sorted(shared.keys() | {key for key in sole if key.startswith("*")}):
        rivals = shared.get(key) or {sole[key]}
        target = _winner(sorted(rivals), any_address=key.startswith("*"))
        if target is not None:
            entries[key] = target
        else:
            del entries[key]
            problems.append(_ambiguous(key, rivals))
    networks = [(key, *entries.pop(key)) for key in list(entries) if "/" in key]
    return AddressTable(entries, _longest_first(networks)), tuple(problems)


def _claims(service: Service) -> Iterator[tuple[str, Claim]]:
    """``address:port``, ``network:port`` or ``*:port`` → for whom."""
    for port in service.ports:
        claim = (service.host, port.port, port.protocol)
        for address in service.addresses:
            if address != "*" or _by_number(port.protocol):
                yield address_key(address, port.port), claim
        for backend in service.backends.get(port.port, ()):
            yield address_key(_canonical(backend.address), backend.port), claim


def _by_number(protocol: str) -> bool:
    return protocol not in HTTP_PROTOCOLS and protocol != AUTO


def _canonical(address: str) -> str:
    """As the kernel prints it; IPv4 has one form."""
    return str(ip_address(address)) if ":" in address else address


def _winner(rivals: list[Claim], *, any_address: bool) -> tuple[str, int] | None:
    """Of one address: its only service, or what later tells several apart."""
    protocols = {protocol for _, _, protocol in rivals}
    ports = {port for _, port, _ in rivals}
    if protocols <= TLS_PROTOCOLS and len(ports) == 1 and (any_address or len(rivals) > 1):
        return BY_NAME, rivals[0][1]
    if len(rivals) == 1 or protocols <= HTTP_PROTOCOLS:
        return rivals[0][:2]
    return None


def _longest_first(rows: Iterable[tuple[str, str, int]]) -> tuple[tuple[str, int, str, int], ...]:
    """(network, port, host, service port), as `addresses.find` tries them."""
    apart = []
    for key, host, service_port in rows:
        network, _, port = key.rpartition(":")
        apart.append((network.strip("[]"), int(port), host, service_port))
    return tuple(sorted(apart, key=lambda row: (-ip_network(row[0]).prefixlen, row)))


def _ambiguous(key: str, rivals: Iterable[Claim]) -> Problem:
    where = f"port {key[2:]} of any address" if key.startswith("*") else key
    hosts = " and ".join(sorted({host for host, _, _ in rivals}))
    return Problem(
        NOWHERE,
        "",
        f"captured connections to {where} could be for {hosts}, so they are for none",
        "give each an address or a port of its own, or an upstream",
        "ambiguous-address",
        Severity.WARNING,
    )
