"""What the policy server said, validated again here, with the last good state kept.

Two sets of resources: `received` is what the server streamed (changes are
relative to it), `good` the last of them that was valid as a whole.  A revision
that does not validate leaves `good` alone, so traffic goes on under the rules
that were; the refusal is reported to the server.  A later revision that mends
the fault is judged as a whole again.

Pure: messages in, state out; `meshd.agent.control` moves the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshd.agent.mesh import mesh_document, mesh_settings
from meshkit.model.load import load_document
from meshkit.model.problems import Severity
from meshkit.model.resources import Resource, ServicePort
from meshkit.names import MeshSettings, ServiceName

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Named:
    """Secure naming of one service: who may serve it, and its ports."""

    accounts: tuple[str, ...]
    ports: tuple[ServicePort, ...]


class Malformed(ValueError):
    """A message that is not of the contract; the stream is opened anew."""


@dataclass(slots=True)
class _Valid:
    document: Document
    resources: tuple[Resource, ...]
    problems: tuple[str, ...]


@dataclass(slots=True)
class PolicyState:
    """The agent's copy.  ``refusal`` is why `received` is not `good`; "" = it is."""

    mesh: MeshSettings = field(default_factory=MeshSettings)
    roots: dict[str, str] = field(default_factory=dict)
    naming: dict[ServiceName, Named] = field(default_factory=dict)
    received_revision: int = 0
    revision: int = 0
    resources: tuple[Resource, ...] = ()
    refusal: str = ""
    epoch: str = ""
    """Which store numbered the revisions; another one makes ours meaningless."""
    _received: dict[str, Document] = field(default_factory=dict)
    _good: dict[str, Document] = field(default_factory=dict)
    _naming: dict[str, Any] = field(default_factory=dict)
    _judged: dict[str, _Valid] = field(default_factory=dict)

    def apply(self, message: Mapping[str, Any]) -> bool:
        """Take one message of the stream; True if what the agent compiles has changed.

        Unknown types are ignored: a server of the next version may send them.
        """
        try:
            match message.get("type"):
                case "mesh":
                    return self._set_mesh(message)
                case "roots":
                    return self.set_roots(message["roots"])
                case "naming":
                    return self._set_naming(message["services"])
                case "state":
                    return self._set_documents(message, {})
                case "changes":
                    return self._set_documents(message, self._received)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Malformed(f"{message.get('type')}: {type(error).__name__}: {error}") from error
        return False

    def set_roots(self, roots: Mapping[str, str]) -> bool:
        changed = self.roots != roots
        self.roots = {str(domain): str(pem) for domain, pem in roots.items()}
        return changed

    def _set_mesh(self, message: Mapping[str, Any]) -> bool:
        mesh = mesh_settings(message)
        self.epoch = str(message.get("epoch", ""))
        changed, self.mesh = mesh != self.mesh, mesh
        return changed

    def _set_naming(self, services: Mapping[str, Any]) -> bool:
        naming = {service_name(key): _named(value) for key, value in services.items()}
        changed = naming != self.naming
        self.naming, self._naming = naming, dict(services)
        return changed

    def _set_documents(self, message: Mapping[str, Any], base: Mapping[str, Document]) -> bool:
        received = dict(base)
        for key in message.get("deleted", ()):
            received.pop(str(key), None)
        for document in message["resources"]:
            received[document_key(document)] = document
        self._received = received
        self.received_revision = int(message["revision"])
        return self._judge()

    def _judge(self) -> bool:
        """Validate `received` as a whole; make it `good` or say why not."""
        judged = {key: self._validate(key, doc) for key, doc in self._received.items()}
        self._judged = judged
        problems = [text for valid in judged.values() for text in valid.problems]
        self.refusal = "; ".join(problems)
        if problems:
            return False
        changed = self._good != self._received
        self.revision, self._good = self.received_revision, self._received
        self.resources = tuple(r for valid in judged.values() for r in valid.resources)
        return changed

    def _validate(self, key: str, document: Document) -> _Valid:
        known = self._judged.get(key)
        if known is not None and known.document == document:
            return known
        loaded = load_document(
            dict(document),
            str(document.get("source", "")) or key,
            created=int(document.get("created", 0)),
            revision=int(document.get("revision", 0)),
        )
        faults = [str(p) for p in loaded.problems if p.severity is Severity.ERROR]
        return _Valid(document, tuple(loaded.resources), tuple(faults))

    def stream_query(self) -> dict[str, str | int]:
        """What to ask the server for: everything after the last good revision."""
        known: dict[str, str | int] = {"revision": self.revision}
        return known | ({"epoch": self.epoch} if self.epoch else {})

    def dump(self) -> dict[str, Any]:
        """The last good state as JSON, for the disk."""
        return {
            "version": 1,
            "revision": self.revision,
            "epoch": self.epoch,
            "mesh": mesh_document(self.mesh),
            "roots": self.roots,
            "resources": list(self._good.values()),
            "naming": self._naming,
        }


def restore(saved: Any) -> PolicyState:
    """What `PolicyState.dump` wrote; an empty state where it cannot be used."""
    state = PolicyState()
    if not isinstance(saved, dict) or saved.get("version") != 1:
        return state
    try:
        state.apply({"type": "mesh", "epoch": saved.get("epoch", ""), **saved["mesh"]})
        state.apply({"type": "roots", "roots": saved["roots"]})
        state.apply({"type": "naming", "services": saved["naming"]})
        state.apply({**saved, "type": "state"})
    except (Malformed, KeyError, TypeError):
        return PolicyState()
    return state


def service_name(key: str) -> ServiceName:
    """``default/reviews`` → ServiceName."""
    namespace, slash, name = key.partition("/")
    if not (slash and namespace and name):
        raise ValueError(f"{key!r} is not namespace/name")
    return ServiceName(namespace, name)


def document_key(document: Document) -> str:
    """``VirtualService/default/reviews``."""
    meta = document["metadata"]
    return f"{document['kind']}/{meta.get('namespace') or 'default'}/{meta['name']}"


def _named(value: Mapping[str, Any]) -> Named:
    ports = tuple(
        ServicePort(str(p.get("name", "")), int(p["port"]), int(p["port"]), str(p["protocol"]))
        for p in value["ports"]
    )
    return Named(tuple(str(a) for a in value["accounts"]), ports)
