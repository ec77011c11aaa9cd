"""VirtualService.http[]: matches, destinations, timeout, retries."""

from __future__ import annotations

from typing import Any

from meshkit.model import http_later
from meshkit.model.decode import INVALID, Field, ListOf, Message, Parts, Spot, later
from meshkit.model.dns import HOST, LABEL, LABELS
from meshkit.model.headers import HEADERS
from meshkit.model.report import did_you_mean
from meshkit.model.resources import Headers, HTTPMatch, HTTPRoute, Retries, RouteDestination
from meshkit.model.scalars import BOOL, DURATION, INT, PORT, STRING, Int, String
from meshkit.model.string_match import HEADER_MATCHES, QUERY_MATCHES, STRING_MATCH, URI_MATCH

RETRY_ON_HTTP = frozenset(
    (
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "envoy-ratelimited",
    )
)
RETRY_ON_GRPC = frozenset(
    ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"]
)
_ACTIONS = ("redirect", "directResponse", "delegate")


def _match(parts: Parts) -> HTTPMatch:
    if parts.get("ignoreUriCase") and (uri := parts.get("uri")) and uri.kind == "regex":
        remedy = "begin the regex with (?i)"
        parts.at("ignoreUriCase").warn("has no effect on a regex", remedy, "ignored")
    return HTTPMatch(
        name=parts.get("name", ""),
        uri=parts.get("uri"),
        ignore_uri_case=parts.get("ignoreUriCase", False),
        method=parts.get("method"),
        authority=parts.get("authority"),
        headers=parts.get("headers", ()),
        without_headers=parts.get("withoutHeaders", ()),
        query_params=parts.get("queryParams", ()),
        position=parts.spot.position,
    )


HTTP_MATCH = Message(
    "HTTPMatchRequest",
    (
        Field("name", STRING, note="second part of the route's name in logs"),
        Field("uri", URI_MATCH, note="on the path without the query"),
        later("scheme", STRING_MATCH),
        Field("method", STRING_MATCH),
        Field("authority", STRING_MATCH),
        Field("headers", HEADER_MATCHES, note="{}, null and regex * mean presence"),
        later("port", PORT),
        later("sourceLabels", LABELS),
        later("gateways", ListOf(STRING), "split the rule into one VirtualService per gateway"),
        Field("queryParams", QUERY_MATCHES, note="{} means presence"),
        Field("ignoreUriCase", BOOL, note="for exact and prefix"),
        Field("withoutHeaders", HEADER_MATCHES, note="a missing header counts as empty"),
        later("sourceNamespace", STRING),
        later("statPrefix", STRING, "use name"),
    ),
    _match,
)

PORT_SELECTOR = Message(
    "PortSelector", (Field("number", PORT, required=True),), lambda parts: parts.get("number")
)
DESTINATION = Message(
    "Destination",
    (
        Field("host", HOST, required=True),
        Field("subset", LABEL, note="defined by a DestinationRule of the host"),
        Field("port", PORT_SELECTOR, note="default: the only port, else the listener's"),
    ),
)


def _destination(parts: Parts) -> RouteDestination:
    target: Parts = parts.get("destination")
    return RouteDestination(
        host=target.get("host"),
        subset=target.get("subset", ""),
        port=target.get("port"),
        weight=parts.get("weight", 0),
        headers=parts.get("headers", Headers()),
        position=parts.spot.position,
    )


HTTP_ROUTE_DESTINATION = Message(
    "HTTPRouteDestination",
    (
        Field("destination", DESTINATION, required=True),
        Field("weight", INT, note="relative; a single destination takes everything"),
        Field("headers", HEADERS, note="after the rule's own"),
    ),
    _destination,
)


def _retry_on(text: str, spot: Spot) -> Any:
    """The policies of a comma-separated list; integers are statuses of the upstream."""
    found = [policy.strip() for policy in text.split(",")]
    whole = True
    for policy in found:
        if policy.isascii() and policy.isdigit():
            good = 100 <= int(policy[:4]) <= 599 and len(policy) == 3
            remedy = "give a status from 100 to 599"
        else:
            good = policy in RETRY_ON_HTTP | RETRY_ON_GRPC
            known = sorted(RETRY_ON_HTTP | RETRY_ON_GRPC)
            remedy = did_you_mean(policy, known, "known: a status, " + ", ".join(known))
        if not good:
            spot.error(f'unknown retry policy "{policy[:60]}"', remedy)
            whole = False
    return tuple(dict.fromkeys(found)) if whole else INVALID


def _retries(parts: Parts) -> Any:
    """⚠ ``retries: {}`` and ``attempts: 0`` switch retries off."""
    attempts = parts.get("attempts", 0)
    others = [name for name in ("perTryTimeout", "retryOn") if parts.given(name)]
    if others and not attempts and (parts.get("attempts") == 0 or not parts.given("attempts")):
        message = f"attempts is 0, which switches retries off, but {others[0]} is given"
        return parts.spot.error(message, f"set attempts, or remove {', '.join(others)}")
    return Retries(attempts, parts.get("perTryTimeout"), parts.get("retryOn"))


RETRIES = Message(
    "HTTPRetry",
    (
        Field("attempts", Int(0, 1000), note="0 or absent in a given block: no retries"),
        Field("perTryTimeout", DURATION, note="default: the route's timeout"),
        Field(
            "retryOn",
            String("retry policies, comma-separated", _retry_on),
            note="replaces the default list; a number is a status of the upstream",
        ),
        later("retryRemoteLocalities", BOOL),
        later("retryIgnorePreviousHosts", BOOL, "hosts already tried are always skipped"),
        later("backoff", DURATION, "the backoff starts at 25ms"),
    ),
    _retries,
)


def check_weights(parts: Parts) -> None:
    """⚠ They are relative, and only of several destinations: then one must count."""
    route: tuple[RouteDestination, ...] = parts.get("route", ())
    if len(route) > 1 and not any(destination.weight for destination in route):
        remedy = "give each destination a weight above 0"
        parts.at("route").error("all the weights are 0", remedy)


def _route(parts: Parts) -> Any:
    _check_action(parts)
    check_weights(parts)
    route: tuple[RouteDestination, ...] = parts.get("route", ())
    return HTTPRoute(
        name=parts.get("name", ""),
        match=parts.get("match", ()),
        route=route,
        timeout=parts.get("timeout"),
        retries=parts.get("retries"),
        headers=parts.get("headers", Headers()),
        position=parts.spot.position,
    )


def _check_action(parts: Parts) -> None:
    if not parts.given("route") and not any(map(parts.given, _ACTIONS)):
        parts.spot.error("the rule has no route", "add route: with a destination", "required")
    if parts.given("route") and any(map(parts.given, _ACTIONS)):
        extra = ", ".join(filter(parts.given, _ACTIONS))
        parts.spot.error(f"has both route and {extra}", "keep one of them")


HTTP_ROUTE = Message(
    "HTTPRoute",
    (
        Field("name", STRING, note="the route's name in logs"),
        Field("match", ListOf(HTTP_MATCH), note="the blocks OR, the fields of one AND"),
        Field("route", ListOf(HTTP_ROUTE_DESTINATION, at_least=1)),
        later("redirect", http_later.REDIRECT),
        later("directResponse", http_later.DIRECT_RESPONSE),
        later("delegate", http_later.DELEGATE, "write the delegate's rules here"),
        later("rewrite", http_later.REWRITE),
        Field("timeout", DURATION, note="off by default; covers all tries and backoff"),
        Field("retries", RETRIES, note="absent: 2 attempts; {}: none"),
        later("fault", http_later.FAULT),
        later("mirror", DESTINATION),
        later("mirrors", ListOf(http_later.mirror(DESTINATION))),
        later("mirrorPercent", INT, "", "deprecated by Istio"),
        later("mirror_percent", INT, "", "deprecated by Istio"),
        later("mirrorPercentage", http_later.PERCENT),
        later("corsPolicy", http_later.CORS),
        Field("headers", HEADERS),
    ),
    _route,
)
