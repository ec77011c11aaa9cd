"""The format of the static backend's files: one document a service, with its instances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from meshd.discovery.base import Instance
from meshd.discovery.view import Answer, key_of
from meshkit.model.decode import INVALID, Field, ListOf, Message, Parts, Spot
from meshkit.model.dns import IP, LABEL, LABELS, NAME
from meshkit.model.ports import LOCAL_PROTOCOL
from meshkit.model.problems import Position, Problem
from meshkit.model.report import Report
from meshkit.model.scalars import BOOL, PORT, Int
from meshkit.model.yaml_reader import read
from meshkit.names import ServiceName


@dataclass(frozen=True, slots=True)
class Listed:
    """One instance as written; ``healthy: false`` takes it out without removing it."""

    instance: Instance
    healthy: bool


def _parts(parts: Parts) -> Parts:
    return parts


_INSTANCE = Message(
    "instance",
    (
        Field("host", NAME, required=True, note="the name of the host it runs on"),
        Field("instance", LABEL, note="default main"),
        Field("address", IP, required=True),
        Field("port", PORT, required=True, note="the service's port"),
        Field("portName", LABEL),
        Field("protocol", LOCAL_PROTOCOL, note="default HTTP"),
        Field("meshPort", PORT, note="meshd's mTLS port; absent: plaintext"),
        Field("labels", LABELS),
        Field("weight", Int(0, 65535), note="default 1"),
        Field("healthy", BOOL, note="default true"),
    ),
    _parts,
)


def _listed(service: ServiceName, parts: Parts) -> Listed:
    instance = Instance(
        service=service,
        instance=parts.get("instance", "main"),
        host=parts.get("host"),
        address=parts.get("address"),
        port=parts.get("port"),
        protocol=parts.get("protocol", "HTTP"),
        mesh_port=parts.get("meshPort"),
        port_name=parts.get("portName", ""),
        labels=parts.get("labels", {}),
        weight=parts.get("weight", 1),
    )
    return Listed(instance, parts.get("healthy", True))


def _build(parts: Parts) -> Any:
    service = ServiceName(parts.get("namespace", "default"), parts.get("name"))
    rows: tuple[Parts, ...] = parts.get("instances", ())
    found = tuple(_listed(service, row) for row in rows)
    keys = [key_of(each.instance) for each in found]
    for row, key in zip(rows, keys, strict=True):
        if keys.count(key) > 1:
            message = f"host {key[0]}, instance {key[1]}, port {key[2]} is given twice"
            return row.spot.error(message, "give each its own instance:", "duplicate")
    return found


SERVICE = Message(
    "static service",
    (
        Field("name", LABEL, required=True),
        Field("namespace", LABEL, note='default "default"'),
        Field("instances", ListOf(_INSTANCE), required=True),
    ),
    _build,
)


def parse(text: str, source: str) -> tuple[tuple[Listed, ...], list[Problem]]:
    """All instances of one file, and what is wrong with it.

    A file without a document is wrong: it is one that is being written.
    """
    report = Report()
    values = read(text, source, report)
    found = [SERVICE.decode(Spot(value, "", report)) for value in values]
    problems = report.problems()
    if not values and not problems:
        remedy = "list a service, or delete the file"
        problems.append(Problem(Position(source, 1, 1), "", "the file is empty", remedy))
    listed = tuple(each for rows in found if rows is not INVALID for each in rows)
    return listed, problems


def answers(listed: Iterable[Listed]) -> dict[ServiceName, Answer]:
    """What the files say about each service."""
    healthy: dict[ServiceName, list[Instance]] = defaultdict(list)
    failing: dict[ServiceName, set[tuple[str, str, int]]] = defaultdict(set)
    for each in listed:
        service = each.instance.service
        if each.healthy:
            healthy[service].append(each.instance)
        else:
            failing[service].add(key_of(each.instance))
    return {
        service: Answer(tuple(healthy[service]), frozenset(failing[service]))
        for service in healthy.keys() | failing.keys()
    }
