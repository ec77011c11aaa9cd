"""Ports as documents declare them: ``protocol``, ``appProtocol``, the name's prefix."""

from __future__ import annotations

from typing import Any

from meshkit.model.decode import INVALID, Parts, Spot
from meshkit.model.protocols import (
    APP_PROTOCOLS,
    AUTO,
    NOT_HTTP,
    contradicts,
    of_app_protocol,
    of_name,
)
from meshkit.model.report import near
from meshkit.model.scalars import Enum, String

_UDP = {"UDP": "UDP is not carried: leave the port out"}
ISTIO = (
    *("HTTP", "HTTP2", "GRPC", "GRPC-WEB"),
    *("TCP", "TLS", "HTTPS", "MONGO", "MYSQL", "REDIS"),
)
"""As Istio names them; any case is taken."""

PROTOCOL = Enum({name: name for name in ISTIO}, later=_UDP, fold=True)
LOCAL_PROTOCOL = Enum({name: name for name in (*ISTIO, AUTO)}, later=_UDP, fold=True)
"""Of our own documents: also AUTO."""


def _app_protocol(text: str, spot: Spot) -> Any:
    found = of_app_protocol(text)
    if found is not None:
        return found
    known = ", ".join((*(name.lower() for name in ISTIO), *APP_PROTOCOLS))
    return spot.error(f'unknown appProtocol "{text[:60]}"', f"write one of {known}")


APP_PROTOCOL = String("an application protocol", _app_protocol)


def declared(parts: Parts, number: int) -> Any:
    """The protocol of a port of services.d: said once or more, but not differently.

    Without any it is HTTP, as the documentation has it; INVALID where it is wrong.
    """
    protocol, app, name = parts.get("protocol"), parts.get("appProtocol"), parts.get("name", "")
    if any(parts.given(key) and parts.get(key) is None for key in ("protocol", "appProtocol")):
        return INVALID
    if protocol and app and protocol != app:
        message = f"appProtocol means {app}, but protocol is {protocol}"
        return parts.at("appProtocol").error(message, "remove one of the two", "conflict")
    found = protocol or app or of_name(name)
    if found is None:
        return _undeclared(parts, number, name)
    if contradicts(name, found):
        message = f'the name "{name}" declares {of_name(name)}, but the protocol is {found}'
        remedy = "rename the port, or correct its protocol"
        return parts.at("name").error(message, remedy, "conflict")
    return found


def _undeclared(parts: Parts, number: int, name: str) -> str:
    meant = _meant(name)
    if meant is not None:
        message = f'the name "{name}" declares no protocol, so port {number} is HTTP'
        parts.at("name").warn(message, f'did you mean "{meant}"? Else add protocol: HTTP')
        return "HTTP"
    usual = NOT_HTTP.get(number)
    if usual is not None:
        message = f"port {number} is HTTP here, because it declares no protocol"
        parts.spot.warn(message, f"add protocol: {usual}, or protocol: HTTP if it is")
    return "HTTP"


def _meant(name: str) -> str | None:
    """The protocol that a name's prefix nearly is; nothing for HTTP, which it is anyway."""
    prefix = name.partition("-")[0].lower()
    swapped = [each.lower() for each in ISTIO if sorted(each.lower()) == sorted(prefix)]
    meant = swapped[0] if swapped else near(prefix, [each.lower() for each in ISTIO])
    return None if prefix.startswith("http") else meant
