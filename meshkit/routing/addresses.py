"""Which service a captured connection was meant for: look-up by original destination.

The most specific wins: the address itself, then the longest network that holds it,
then (istio-semantics 4) a TCP port that was declared without any address, which is
matched by its number alone.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from meshkit.snapshot.types import AddressTable

Target = tuple[str, int]
"""(host, service port)"""


def address_key(address: str, port: int) -> str:
    """``10.0.0.7:5432``, ``[fd00::7]:5432``; ``*`` for any address."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def find(table: AddressTable, address: str, port: int) -> Target | None:
    """The service behind ``address`` (as the kernel prints it); None: not of the mesh."""
    found = table.entries.get(address_key(address, port))
    if found is None and table.networks:
        found = _in_network(table, address, port)
    return found or table.entries.get(address_key("*", port))


def _in_network(table: AddressTable, address: str, port: int) -> Target | None:
    """``networks`` is in order, the longest prefix first."""
    try:
        one = ip_address(address)
    except ValueError:
        return None
    for network, number, host, service_port in table.networks:
        if number == port and one in ip_network(network):
            return host, service_port
    return None
