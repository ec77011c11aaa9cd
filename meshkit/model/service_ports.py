"""The ports of a service of ``services.d``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from meshkit.model.decode import INVALID, Field, Message, Parts, Spot
from meshkit.model.dns import LABEL
from meshkit.model.ports import APP_PROTOCOL, LOCAL_PROTOCOL, declared
from meshkit.model.resources import ServicePort
from meshkit.model.scalars import PORT


def _port(parts: Parts) -> Any:
    number, name = parts.get("port"), parts.get("name", "")
    protocol = declared(parts, number)
    if protocol is INVALID:
        return INVALID
    return ServicePort(name, number, parts.get("targetPort", number), protocol)


SERVICE_PORT = Message(
    "port",
    (
        Field(
            "name",
            LABEL,
            note="its prefix may declare the protocol: grpc, grpc-api, tcp-db; "
            "default, where there is one port: the protocol's",
        ),
        Field("port", PORT, required=True, note="what callers use"),
        Field("targetPort", PORT, note="where the application listens; default: port"),
        Field(
            "protocol",
            LOCAL_PROTOCOL,
            note="default: appProtocol's, else the name's, else HTTP; AUTO = sniff",
        ),
        Field("appProtocol", APP_PROTOCOL, note="as in Kubernetes: grpc, kubernetes.io/h2c"),
    ),
    _port,
)


def ports_of(parts: Parts) -> tuple[ServicePort, ...]:
    """``ports`` of a service; several need names, no two may be the same."""
    ports: tuple[ServicePort, ...] = parts.get("ports", ())
    spot = parts.at("ports")
    if len(ports) == 1 and not ports[0].name:
        only = ports[0]
        return (ServicePort(only.protocol.lower(), only.port, only.target, only.protocol),)
    for port in ports:
        if not port.name:
            spot.error(f"port {port.port} has no name", "name each of several ports", "required")
    check_unique(spot, "port", [str(port.port) for port in ports])
    check_unique(spot, "port name", [port.name for port in ports if port.name])
    check_unique(spot, "targetPort", [str(port.target) for port in ports])
    return ports


def check_unique(spot: Spot, what: str, used: Iterable[str]) -> None:
    """Report what is ``used`` more than once."""
    for each, times in Counter(used).items():
        if times > 1:
            spot.error(f"the {what} {each} is given twice", "change or remove one", "duplicate")
