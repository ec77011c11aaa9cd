"""VirtualService.tls[] and .tcp[]: where whole connections go, by server name or port."""

from __future__ import annotations

from typing import Any

from meshkit.model.decode import Field, ListOf, Message, Parts, later
from meshkit.model.dns import LABELS, WILDCARD_HOST
from meshkit.model.gateway_name import GATEWAY_NAME
from meshkit.model.http_route import DESTINATION, check_weights
from meshkit.model.resources import L4Match, L4Route, RouteDestination
from meshkit.model.scalars import INT, PORT, STRING


def _match(parts: Parts) -> L4Match:
    return L4Match(
        sni_hosts=tuple(dict.fromkeys(parts.get("sniHosts", ()))),
        port=parts.get("port"),
        gateways=tuple(dict.fromkeys(parts.get("gateways", ()))),
        position=parts.spot.position,
    )


def _match_fields(*extra: Field) -> tuple[Field, ...]:
    return (
        *extra,
        later("destinationSubnets", ListOf(STRING), "match by port, or by another host"),
        Field("port", PORT, note="the service's port; at a gateway the server's"),
        later("sourceLabels", LABELS),
        Field(
            "gateways",
            ListOf(GATEWAY_NAME),
            note="of those of the VirtualService; default: all of them",
        ),
        later("sourceNamespace", STRING),
    )


_SNI = Field(
    "sniHosts",
    ListOf(WILDCARD_HOST, at_least=1),
    required=True,
    note="within the VirtualService's hosts; an exact name beats the longest wildcard",
)
TLS_MATCH = Message("TLSMatchAttributes", _match_fields(_SNI), _match)
TCP_MATCH = Message(
    "L4MatchAttributes",
    _match_fields(later("sourceSubnet", STRING, "", "never ran in Istio")),
    _match,
)


def _destination(parts: Parts) -> RouteDestination:
    target: Parts = parts.get("destination")
    return RouteDestination(
        host=target.get("host"),
        subset=target.get("subset", ""),
        port=target.get("port"),
        weight=parts.get("weight", 0),
        position=parts.spot.position,
    )


ROUTE_DESTINATION = Message(
    "RouteDestination",
    (
        Field("destination", DESTINATION, required=True),
        Field("weight", INT, note="relative, per connection; a single destination takes all"),
    ),
    _destination,
)


def _route(parts: Parts) -> Any:
    check_weights(parts)
    return L4Route(parts.get("match", ()), parts.get("route"), parts.spot.position)


_ROUTE = Field("route", ListOf(ROUTE_DESTINATION, at_least=1), required=True)
TLS_ROUTE = Message(
    "TLSRoute", (Field("match", ListOf(TLS_MATCH, at_least=1), required=True), _ROUTE), _route
)
TCP_ROUTE = Message(
    "TCPRoute",
    (Field("match", ListOf(TCP_MATCH), note="the blocks OR, the fields of one AND"), _ROUTE),
    _route,
)
