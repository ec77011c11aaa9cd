"""Documents of ``services.d``: the applications of this host, in our own form."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from meshkit.model.decode import INVALID, Field, ListOf, Message, Parts, Spot, later
from meshkit.model.dns import HOST, IP, LABEL, LABELS, NAME, is_ip, label_value
from meshkit.model.ports import LOCAL_PROTOCOL
from meshkit.model.problems import Position, Problem
from meshkit.model.protocols import is_http, is_http2
from meshkit.model.report import Report
from meshkit.model.resources import Health, LocalService, ServicePort, Upstream
from meshkit.model.scalars import DURATION, PORT, STRING, String
from meshkit.model.service_ports import SERVICE_PORT, check_unique, ports_of
from meshkit.model.values import Value
from meshkit.model.yaml_reader import read

DEFAULT_NAMESPACE = "default"
DEFAULT_INSTANCE = "main"
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}\$?|[0-9]{1,10}")
_MAX_UID = 2**32 - 2


@dataclass(frozen=True, slots=True)
class LoadedServices:
    services: tuple[LocalService, ...]
    problems: list[Problem]


class _User:
    """A Unix user name or uid; the name is looked up by the agent, not here."""

    label = "a Unix user name or uid"

    def decode(self, spot: Spot) -> Any:
        data = spot.value.data
        text = str(data) if isinstance(data, int) and not isinstance(data, bool) else data
        if not isinstance(text, str):
            return spot.expected(self.label, "write a user name such as reviews, or a uid")
        if not _USER.fullmatch(text) or (text.isdigit() and int(text) > _MAX_UID):
            return spot.error(f'"{text[:60]}" is not {self.label}', "write a name or a number")
        return text


def _listen(text: str, spot: Spot) -> Any:
    """``127.0.0.1:9181`` or ``[::1]:9181``: loopback only, others could call as us."""
    host, colon, port = text.rpartition(":")
    address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    whole = colon and port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535
    if not whole or not is_ip(address) or (":" in address) != host.startswith("["):
        return spot.error(f'"{text[:60]}" is not address:port', "write such as 127.0.0.1:9181")
    if not ipaddress.ip_address(address).is_loopback:
        return spot.error(f'"{address}" is not a loopback address', "listen on 127.0.0.1 or [::1]")
    return text


def _path(text: str, spot: Spot) -> Any:
    if text.startswith("/") and text.isascii() and " " not in text:
        return text
    return spot.error(f'"{text[:60]}" is not a path', "write such as /health")


_HEALTH = Message(
    "health",
    (
        Field("http", String("a path", _path), note="2xx is healthy; absent: a TCP connect"),
        Field("port", PORT, note="the application's; default: the first targetPort"),
        Field("interval", DURATION, note="default 5s"),
        Field("timeout", DURATION, note="default 1s"),
    ),
)

_UPSTREAM = Message(
    "upstream",
    (
        Field("listen", String("a loopback address:port", _listen), required=True),
        Field("host", HOST, required=True, note="short: this service's namespace"),
        Field("port", PORT, required=True),
        Field("protocol", LOCAL_PROTOCOL, note="default: what the service's port declares"),
    ),
    lambda parts: Upstream(
        parts.get("listen"),
        parts.get("host"),
        parts.get("port"),
        parts.spot.position,
        parts.get("protocol", ""),
    ),
)


def _health(parts: Parts, ports: tuple[ServicePort, ...]) -> Any:
    health: Parts | None = parts.get("health")
    if health is None:
        return None
    port = health.get("port") or (ports[0].target if ports else None)
    if port is None:
        remedy = "add port: where the application answers"
        return parts.at("health").error("there is no port to ask", remedy, "required")
    interval, timeout = health.get("interval", 5.0), health.get("timeout", 1.0)
    if timeout > interval:
        health.at("timeout").error("the timeout is longer than the interval", "shorten it")
    if health.given("http"):
        _check_health_port(health, port, ports)
    return Health(health.get("http"), port, interval, timeout)


def _check_health_port(health: Parts, number: int, ports: tuple[ServicePort, ...]) -> None:
    """The check speaks HTTP/1.1, which not every port does."""
    asked = next((port for port in ports if port.target == number), None)
    if asked is not None and (is_http2(asked.protocol) or not is_http(asked.protocol)):
        message = f"the check speaks HTTP/1.1, and port {number} is {asked.protocol}"
        remedy = "remove http: (a TCP connect), or give port: one that speaks HTTP/1.1"
        health.at("http").warn(message, remedy)


def _labels(parts: Parts) -> dict[str, str]:
    """The labels, with the version as subsets select it."""
    labels: dict[str, str] = dict(parts.get("labels", {}))
    version = parts.get("version")
    if version and labels.setdefault("version", version) != version:
        parts.at("version").error(
            f'labels say version "{labels["version"]}"', "remove one of the two"
        )
    return labels


def _build(parts: Parts) -> Any:
    labels = _labels(parts)
    ports = ports_of(parts)
    health = _health(parts, ports)
    upstreams: tuple[Upstream, ...] = parts.get("upstreams", ())
    check_unique(parts.at("upstreams"), "address", [each.listen for each in upstreams])
    if not any(map(parts.given, ("ports", "upstreams", "capture"))):
        remedy = "add ports: that it serves, or upstreams: that it calls"
        parts.spot.error("the service neither serves nor calls", remedy, "required")
    instance = parts.get("instance") or _instance(parts, labels)
    if health is INVALID or instance is INVALID:
        return INVALID
    return LocalService(
        name=parts.get("name"),
        namespace=parts.get("namespace", DEFAULT_NAMESPACE),
        service_account=parts.get("serviceAccount", parts.get("name")),
        instance=instance,
        labels=labels,
        ports=ports,
        address=parts.get("address", "127.0.0.1"),
        user=parts.get("user", ""),
        health=health,
        upstreams=upstreams,
        capture=parts.get("capture", ""),
        position=parts.spot.position,
    )


def _instance(parts: Parts, labels: dict[str, str]) -> Any:
    """The version where it can stand in a name, since instances are named on the wire."""
    version = labels.get("version", "")
    text = re.sub(r"[^a-z0-9-]", "-", version.lower())[:63].strip("-")
    return text or DEFAULT_INSTANCE


SERVICE = Message(
    "service",
    (
        Field("name", LABEL, required=True),
        Field("namespace", LABEL, note='default "default"'),
        Field("version", String("a label value", label_value), note="becomes the label version"),
        Field("labels", LABELS),
        Field("serviceAccount", NAME, note="default: the name"),
        Field("user", _User(), note="who owns the process; default: meshd's own user"),
        later("unit", STRING, "give the Unix user of the service: user:"),
        Field("address", IP, note="where the application listens; default 127.0.0.1"),
        Field("ports", ListOf(SERVICE_PORT)),
        Field("health", _HEALTH),
        Field("upstreams", ListOf(_UPSTREAM)),
        Field(
            "capture",
            String("a loopback address:port", _listen),
            note="where a redirect rule of yours sends the connections that it makes",
        ),
        Field("instance", LABEL, note="default: the version, else main"),
    ),
    _build,
)


def load_services(text: str, source: str) -> LoadedServices:
    """The documents of one file of ``services.d``."""
    return load_service_files([(source, text)])


def load_service_files(files: Iterable[tuple[str, str]]) -> LoadedServices:
    """All files of the folder: also what two documents may not share."""
    services: list[LocalService] = []
    problems: list[Problem] = []
    for source, text in files:
        report = Report()
        services += filter(None, (_service(value, report) for value in read(text, source, report)))
        problems += report.problems()
    return LoadedServices(tuple(services), problems + _conflicts(services))


def _service(value: Value, report: Report) -> LocalService | None:
    before = report.error_count
    spot = Spot(value, "", report)
    data = value.data
    if isinstance(data, dict) and "apiVersion" in data and "kind" in data:
        spot.error("this is a resource of the mesh", "apply it with meshctl apply -f", "misplaced")
        return None
    service = SERVICE.decode(spot)
    return service if report.error_count == before and service is not INVALID else None


def _conflicts(services: Iterable[LocalService]) -> list[Problem]:
    taken: dict[tuple[str, ...], Position] = {}
    found = []

    def take(key: tuple[str, ...], where: Position, field: str, what: str, remedy: str) -> None:
        first = taken.setdefault(key, where)
        if first != where:
            message = f"{what} is also at {first}"
            found.append(Problem(where, field, message, remedy, "duplicate"))

    for each in services:
        identity = f"{each.namespace}/{each.name}/{each.instance}"
        remedy = "give each its own instance:"
        take(("instance", identity), each.position, "instance", f"the instance {identity}", remedy)
        for upstream in each.upstreams:
            address = upstream.listen
            remedy = "choose another port"
            take(("listen", address), upstream.position, "listen", address, remedy)
        if each.capture:
            remedy = "give each service a port of its own: it tells who calls"
            take(("listen", each.capture), each.position, "capture", each.capture, remedy)
    return found
