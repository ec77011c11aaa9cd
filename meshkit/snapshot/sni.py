"""The server name that one meshd asks of another: which port, which instance.

``p9080.v1.reviews.default.svc.cluster.local``: service port, instance on that
host (or ``any``), service, namespace, mesh domain.  A TLS server name carries
only ``[a-z0-9-]`` labels of at most 63 characters, so any other name is
shortened to what fits plus a hash of the whole.  The shortening loses
information: a receiver compares with `sni_label` of its own names and never
tries to invert it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from meshkit.names import ServiceName

ANY_INSTANCE = "any"
MAX_LABEL = 63
MAX_NAME = 253
"""RFC 1035 section 2.3.4, as text."""

_HASH = 10
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ODD = re.compile(r"[^a-z0-9]+")
_PORT = re.compile(r"p([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class MeshSNI:
    """A parsed mesh server name; ``instance``, ``service`` and ``namespace`` are labels."""

    port: int
    instance: str
    service: str
    namespace: str


def sni_label(name: str) -> str:
    """``name`` as one DNS label: itself where it is one, else shortened with a hash."""
    if _LABEL.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH]
    stem = _ODD.sub("-", name.lower()).strip("-")[: MAX_LABEL - _HASH - 1]
    return f"{stem}-{digest}" if stem else f"x-{digest}"


def mesh_sni(service: ServiceName, port: int, instance: str, domain: str) -> str:
    """The server name of one instance's port; raises ValueError over 253 characters."""
    labels = (instance or ANY_INSTANCE, service.name, service.namespace)
    name = f"p{port}.{'.'.join(map(sni_label, labels))}.{domain}"
    if len(name) > MAX_NAME:
        raise ValueError(f"server name over {MAX_NAME} characters: {name}; shorten the mesh domain")
    return name


def parse_mesh_sni(sni: str, domain: str) -> MeshSNI | None:
    """The parts of a mesh server name (case ignored); None for any other name."""
    head, dot, tail = sni.lower().partition("." + domain)
    labels = head.split(".")
    if not dot or tail or len(labels) != 4 or not all(map(_LABEL.fullmatch, labels)):
        return None
    port = _PORT.fullmatch(labels[0])
    if port is None or int(port[1]) > 65535:
        return None
    return MeshSNI(int(port[1]), labels[1], labels[2], labels[3])
