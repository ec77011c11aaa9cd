"""ServiceEntry and WorkloadEntry: services and endpoints that nobody registers."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network
from typing import Any

from meshkit.model.common import EXPORT_TO, Draft
from meshkit.model.decode import INVALID, Field, ListOf, MapOf, Message, Parts, Spot, later
from meshkit.model.dns import IP, LABELS, NAME, is_host
from meshkit.model.ports import PROTOCOL
from meshkit.model.protocols import contradicts, of_name
from meshkit.model.resources import Port, ServiceEntry, WorkloadEntry, WorkloadEntrySpec
from meshkit.model.scalars import PORT, STRING, Enum, Int, String

_STATIC = "write resolution: STATIC and list endpoints with IP addresses"


def _entry_host(text: str, spot: Spot) -> Any:
    lower = text.lower()
    if lower != "*" and is_host(lower, wildcard=True):
        return lower
    return spot.error(f'"{text[:70]}" is not a host', "write a DNS name or *.suffix")


def _address(text: str, spot: Spot) -> Any:
    """An address, or a network with no bits beyond its prefix."""
    try:
        network = ip_network(text)
    except ValueError:
        remedy = "write such as 10.1.2.3 or 10.1.0.0/16 (no bits beyond the prefix)"
        return spot.error(f'"{text[:70]}" is not an IP address or CIDR', remedy)
    if "%" in text:
        return spot.error(f'"{text[:70]}" names a scope', "write the address alone")
    one = network.prefixlen == network.max_prefixlen
    return str(network.network_address if one else network)


def _port(parts: Parts) -> Any:
    """⚠ Without protocol it is TCP, whatever the name says."""
    if parts.given("protocol") and parts.get("protocol") is None:
        return INVALID
    name, protocol = parts.get("name"), parts.get("protocol", "TCP")
    if contradicts(name, protocol):
        where = parts.at("protocol") if parts.given("protocol") else parts.at("name")
        message = f'the port is {protocol}, though its name "{name}" declares {of_name(name)}'
        where.warn(message, f"add protocol: {of_name(name)}, or rename the port")
    return Port(parts.get("number"), protocol, name, parts.get("targetPort"))


SERVICE_PORT = Message(
    "ServicePort",
    (
        Field("number", PORT, required=True),
        Field("protocol", PROTOCOL, note="absent means TCP; the name declares nothing here"),
        Field("name", STRING, required=True),
        Field("targetPort", PORT, note="default: number"),
    ),
    _port,
)


def _endpoint(parts: Parts) -> WorkloadEntrySpec:
    return WorkloadEntrySpec(
        address=parts.get("address"),
        ports=parts.get("ports", {}),
        labels=parts.get("labels", {}),
        weight=parts.get("weight", 1),
        service_account=parts.get("serviceAccount", ""),
        position=parts.spot.position,
    )


WORKLOAD_ENTRY_SPEC = Message(
    "WorkloadEntry",
    (
        Field("address", IP, required=True, note="IP only; names and unix:// are refused"),
        Field("ports", MapOf(PORT), note="service port's name → port; beats targetPort"),
        Field("labels", LABELS),
        later("network", STRING),
        later("locality", STRING),
        Field(
            "weight",
            Int(1, 2**31 - 1, "a whole number from 1 (remove the endpoint to take it out)"),
            note="default 1",
        ),
        Field("serviceAccount", NAME),
    ),
    _endpoint,
)


def _check_ports(parts: Parts, ports: tuple[Port, ...]) -> None:
    for what, count in (
        ("number", Counter(str(port.number) for port in ports)),
        ("name", Counter(port.name for port in ports)),
    ):
        for each in (value for value, times in count.items() if times > 1):
            message = f"two ports have the {what} {each}"
            parts.at("ports").error(message, f"give each port its own {what}", "duplicate")


def _check_endpoints(parts: Parts, ports: tuple[Port, ...]) -> None:
    endpoints: tuple[WorkloadEntrySpec, ...] = parts.get("endpoints", ())
    names = {port.name for port in ports}
    for endpoint in endpoints:
        for name in endpoint.ports:
            if name not in names and names:
                message = f'the endpoint names a port "{name}" that the entry lacks'
                remedy = "defined are: " + ", ".join(sorted(names))
                parts.at("endpoints").error(message, remedy, at=endpoint.position)
    if endpoints and parts.given("workloadSelector"):
        parts.at("endpoints").error("endpoints and workloadSelector exclude each other", "keep one")
    sources = parts.given("endpoints") or parts.given("workloadSelector")
    if parts.get("resolution") and not sources:
        remedy = "list endpoints, or give a workloadSelector"
        parts.spot.error("STATIC needs endpoints", remedy, "required")


def _build(parts: Parts) -> Draft:
    if not parts.given("resolution"):
        parts.spot.error(
            "a ServiceEntry without resolution is NONE, which is not supported yet",
            _STATIC,
            "not-supported-yet",
        )
    ports = parts.get("ports")
    _check_ports(parts, ports)
    _check_endpoints(parts, ports)
    hosts = parts.get("hosts")
    if len(set(hosts)) != len(hosts):
        parts.at("hosts").error("a host is given twice", "remove one", "duplicate-host")
    return lambda meta: ServiceEntry(
        meta,
        hosts,
        ports,
        parts.get("location", "MESH_EXTERNAL"),
        parts.get("endpoints", ()),
        parts.get("workloadSelector"),
        tuple(dict.fromkeys(parts.get("addresses", ()))),
    )


SERVICE_ENTRY = Message(
    "ServiceEntry",
    (
        Field("hosts", ListOf(String("a host", _entry_host), at_least=1), required=True),
        Field(
            "addresses",
            ListOf(String("an IP address or CIDR", _address)),
            note="of captured connections; a TCP port without any is matched by its number",
        ),
        Field("ports", ListOf(SERVICE_PORT, at_least=1), required=True),
        Field(
            "location",
            Enum({"MESH_EXTERNAL": "MESH_EXTERNAL", "MESH_INTERNAL": "MESH_INTERNAL"}),
            note="default MESH_EXTERNAL: no automatic mTLS",
        ),
        Field(
            "resolution",
            Enum(
                {"STATIC": "STATIC"},
                later=dict.fromkeys(("NONE", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"), _STATIC),
            ),
            note="absent means NONE, which is refused",
        ),
        Field("endpoints", ListOf(WORKLOAD_ENTRY_SPEC)),
        Field(
            "workloadSelector",
            Message("WorkloadSelector", (Field("labels", LABELS),), lambda p: p.get("labels", {})),
            note="WorkloadEntries of the namespace with these labels",
        ),
        EXPORT_TO,
        later("subjectAltNames", ListOf(STRING), "the policy server says who may serve"),
    ),
    _build,
)


def _build_workload_entry(parts: Parts) -> Draft:
    spec = _endpoint(parts)
    return lambda meta: WorkloadEntry(meta, spec)


WORKLOAD_ENTRY = Message(
    "WorkloadEntry", WORKLOAD_ENTRY_SPEC.fields.values(), _build_workload_entry
)
