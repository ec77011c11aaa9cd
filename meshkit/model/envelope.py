"""apiVersion, kind and metadata: which message a document's spec is, and whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshkit.model.common import Draft
from meshkit.model.decode import INVALID, Field, FieldType, MapOf, Message, Parts, Spot
from meshkit.model.dns import LABEL, LABELS, NAME
from meshkit.model.kinds import KINDS, REFUSED, Kind
from meshkit.model.report import Report, did_you_mean, near
from meshkit.model.resources import Meta, Resource
from meshkit.model.scalars import STRING, String
from meshkit.model.values import Value

DEFAULT_NAMESPACE = "default"


class _Any:
    label = "anything"

    def decode(self, spot: Spot) -> Any:
        return spot.value.plain()


class _ServerWritten:
    """What a Kubernetes API server writes and `kubectl get -o yaml` prints back."""

    label = "written by the server"

    def decode(self, spot: Spot) -> Any:
        if spot.value.data not in ({}, [], ""):
            name = spot.path.rpartition(".")[2]
            spot.warn(f'"{name}" is written by a server and has no effect', "remove it", "ignored")
        return None


ANNOTATIONS = MapOf(String("a string", empty=True))
_SERVER: FieldType = _ServerWritten()
_SERVER_FIELDS = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)

METADATA = Message(
    "ObjectMeta",
    (
        Field("name", NAME, required=True),
        Field("namespace", LABEL),
        Field("labels", LABELS),
        Field("annotations", ANNOTATIONS),
        Field("generateName", STRING, later=True, instead="give a name"),
        *(Field(name, _SERVER) for name in _SERVER_FIELDS),
    ),
)

_TOP = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True, slots=True)
class Origin:
    """Revisions that the policy server knows of a resource; 0 outside of it."""

    created: int = 0
    revision: int = 0


def decode_document(value: Value, report: Report, origin: Origin) -> Resource | None:
    """One resource, or None with its problems in ``report``.

    A document with any error yields nothing: half a policy is none.
    """
    before = report.error_count
    spot = Spot(value, "", report)
    kind = _kind(spot)
    if kind is None:
        return None
    envelope = Message(
        kind.name,
        (
            Field("apiVersion", STRING, required=True),
            Field("kind", STRING, required=True),
            Field("metadata", METADATA, required=True),
            Field("spec", kind.spec, required=True),
            Field("status", _SERVER),
        ),
    )
    parts = envelope.decode(spot)
    if parts is INVALID or report.error_count > before:
        return None
    draft: Draft = parts.get("spec")
    return draft(_meta(kind, parts, origin))


def _meta(kind: Kind, parts: Parts, origin: Origin) -> Meta:
    metadata: Parts = parts.get("metadata")
    document = parts.spot.value.plain()
    document.pop("status", None)
    return Meta(
        kind=kind.name,
        namespace=metadata.get("namespace", DEFAULT_NAMESPACE),
        name=metadata.get("name"),
        labels=metadata.get("labels", {}),
        annotations=metadata.get("annotations", {}),
        position=parts.spot.position,
        document=document,
        created=origin.created,
        revision=origin.revision,
    )


def _kind(spot: Spot) -> Kind | None:
    """The kind that a document is of; reports what it is instead."""
    data = spot.value.data
    if not isinstance(data, dict):
        spot.expected("a resource", "write apiVersion, kind, metadata and spec")
        return None
    texts = {}
    for name in ("apiVersion", "kind"):
        value = data.get(name)
        if value is None or value.data is None:
            spot.child(name, spot.value).error("is required", _missing(name, data), "required")
        elif not isinstance(value.data, str):
            spot.child(name, value).expected("a string", f"give {name}")
        else:
            texts[name] = value.data
    if len(texts) < 2:
        return None
    return _look_up(spot, texts["apiVersion"], texts["kind"])


def _missing(name: str, data: dict[str, Value]) -> str:
    if "name" in data and ("ports" in data or "upstreams" in data):
        return "this looks like a file of services.d: put it into /etc/meshd/services.d"
    typo = next((key for key in data if key not in _TOP and near(key, (name,))), None)
    if typo:
        return f'rename "{typo[:60]}" to "{name}"'
    example = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}[name]
    return f"add {name}: such as {example}"


def _look_up(spot: Spot, api_version: str, name: str) -> Kind | None:
    group, _, version = api_version.rpartition("/")
    assert isinstance(spot.value.data, dict)
    at = spot.child("kind", spot.value.data["kind"])
    kind = KINDS.get(name)
    if kind is not None and kind.group == group:
        if version in kind.versions:
            return kind
        at = spot.child("apiVersion", spot.value.data["apiVersion"])
        at.error(
            f'{name} has no version "{version[:60]}"',
            "write " + " or ".join(kind.api_versions),
            "unknown-version",
        )
        return None
    refused = REFUSED.get((group, name))
    if refused is not None:
        when = "is not supported yet" if refused.ever else "is not supported"
        code = "not-supported-yet" if refused.ever else "not-supported"
        at.error(f"{name} ({group or version}) {when}", refused.instead, code)
    else:
        _unknown(spot, at, api_version, name)
    return None


def _unknown(spot: Spot, at: Spot, api_version: str, name: str) -> None:
    if name in KINDS:
        data = spot.value.data
        assert isinstance(data, dict)
        versions = KINDS[name].api_versions
        remedy = did_you_mean(api_version, versions, f"write {versions[0]}")
        where = spot.child("apiVersion", data["apiVersion"])
        where.error(f'{name} is not in "{api_version[:80]}"', remedy, "unknown-version")
        return
    known = [*KINDS, *(refused for _, refused in REFUSED)]
    remedy = did_you_mean(name, known, "known are: " + ", ".join(KINDS))
    at.error(f'unknown kind "{name[:60]}" of {api_version[:80]}', remedy, "unknown-kind")
