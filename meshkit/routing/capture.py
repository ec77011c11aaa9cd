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
from meshkit.routing.names import HTTP_PROTOCOLS, TLS_PROTOCOLS
from meshkit.routing.services import Service
from meshkit.snapshot.types import AddressTable

Key = tuple[str, int]
"""(address, network or ``*``, port)"""
Claim = tuple[str, int, str]
"""(host, service port, protocol)"""

BY_NAME = ""
"""The host of an entry whose connections are told apart by their server name."""


def address_table(services: Iterable[Service]) -> tuple[AddressTable, tuple[Problem, ...]]:
    """The table, and the addresses that could not be given to anybody."""
    claims: dict[Key, set[Claim]] = {}
    for service in services:
        for key, claim in _claims(service):
            claims.setdefault(key, set()).add(claim)
    entries, networks, problems = {}, [], []
    for (address, port), rivals in sorted(claims.items()):
        target = _winner(address, sorted(rivals))
        if target is None:
            problems.append(_ambiguous(address, port, rivals))
        elif "/" in address:
            networks.append((address, port, *target))
        else:
            entries[address_key(address, port)] = target
    networks.sort(key=lambda row: -ip_network(row[0]).prefixlen)
    return AddressTable(entries, tuple(networks)), tuple(problems)


def _claims(service: Service) -> Iterator[tuple[Key, Claim]]:
    for port in service.ports:
        claim = (service.host, port.port, port.protocol)
        for address in service.addresses:
            if address != "*" or _by_number(port.protocol):
                yield (address, port.port), claim
        for backend in service.backends.get(port.port, ()):
            yield (_canonical(backend.address), backend.port), claim


def _by_number(protocol: str) -> bool:
    return protocol not in HTTP_PROTOCOLS and protocol != "AUTO"


def _canonical(address: str) -> str:
    """As the kernel prints it; IPv4 has one form."""
    return str(ip_address(address)) if ":" in address else address


def _winner(address: str, rivals: list[Claim]) -> tuple[str, int] | None:
    """Of one address: its only service, or what later tells several apart."""
    protocols = {protocol for _, _, protocol in rivals}
    ports = {port for _, port, _ in rivals}
    if protocols <= TLS_PROTOCOLS and len(ports) == 1 and (address == "*" or len(rivals) > 1):
        return BY_NAME, rivals[0][1]
    if len(rivals) == 1 or protocols <= HTTP_PROTOCOLS:
        return rivals[0][:2]
    return None


def _ambiguous(address: str, port: int, rivals: Iterable[Claim]) -> Problem:
    where = f"port {port} of any address" if address == "*" else address_key(address, port)
    hosts = " and ".join(sorted({host for host, _, _ in rivals}))
    return Problem(
        NOWHERE,
        "",
        f"captured connections to {where} could be for {hosts}, so they are for none",
        "give each an address or a port of its own, or an upstream",
        "ambiguous-address",
        Severity.WARNING,
    )
