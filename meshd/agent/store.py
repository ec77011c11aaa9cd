"""Keys, certificates and membership on disk, in the agent's private state folder.

An identity is one file, key and chain together: a rename replaces both at once,
so a crash never leaves a key beside another key's certificate.

=========================  =================================================
``membership.json``        host name, mesh settings, roots of every trust domain
``identity/host.pem``      the host's own identity, towards the policy server only
``identity/<ns>~<sa>.pem`` one service account each
``policy.json``            the last good resources and naming
``instances.json``         what discovery said last
=========================  =================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshd.agent.files import private_folder, read_json, write_atomic, write_json
from meshd.agent.mesh import mesh_document, mesh_settings
from meshkit.identity.judge import leaf_identity
from meshkit.identity.pem import belongs, certificates
from meshkit.identity.rotation import Validity, validity
from meshkit.names import MeshSettings

HOST = "host"
"""Name of the host's own identity; all others are ``<namespace>/<account>``."""

_KEY = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----\r?\n?", re.DOTALL
)


class Unusable(ValueError):
    """A key and chain that do not belong together, or not to the name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One certificate held.  ``path`` is the file with key and chain."""

    name: str
    spiffe: str
    chain: bytes
    key: bytes
    life: Validity
    serial: str
    path: Path


@dataclass(frozen=True, slots=True)
class Membership:
    """What joining gave: which mesh, and whom to trust."""

    host: str
    mesh: MeshSettings
    roots: Mapping[str, str]

    def root(self) -> str:
        """PEM of the roots of the mesh's own trust domain."""
        return self.roots.get(self.mesh.trust_domain, "")


def read_identity(name: str, key: bytes, chain: bytes, path: Path) -> Identity:
    """Judge a pair before it is kept or used; raises Unusable."""
    try:
        leaf = certificates(chain)[0]
        spiffe = str(leaf_identity(leaf))
        same = belongs(key, leaf)
    except Exception as error:  # judge, cryptography and pem each have errors of their own
        raise Unusable(f"{name}: {error}") from error
    if not same:
        raise Unusable(f"{name}: the certificate is for another key")
    return Identity(name, spiffe, chain, key, validity(leaf), f"{leaf.serial_number:x}", path)


class Store:
    """The state folder.  Everything is written whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = private_folder(folder)
        self._identities = private_folder(folder / "identity")

    def path(self, name: str) -> Path:
        return self._identities / (name.replace("/", "~") + ".pem")

    def load(self, name: str) -> Identity | None:
        """The identity of this name; None where there is none that can be used."""
        path = self.path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        key = _KEY.search(data)
        try:
            return read_identity(name, key[0], data[key.end() :], path) if key else None
        except Unusable:
            return None

    def save(self, name: str, key: bytes, chain: bytes) -> Identity:
        """Keep a new certificate; raises Unusable (the old one stays) or OSError."""
        identity = read_identity(name, key, chain, self.path(name))
        write_atomic(identity.path, key.rstrip() + b"\n" + chain)
        return identity

    def membership(self) -> Membership | None:
        value = read_json(self.folder / "membership.json")
        if not isinstance(value, dict) or value.get("version") != 1:
            return None
        return Membership(value["host"], mesh_settings(value["mesh"]), value["roots"])

    def save_membership(self, member: Membership) -> None:
        value = {
            "version": 1,
            "host": member.host,
            "mesh": mesh_document(member.mesh),
            "roots": dict(member.roots),
        }
        write_json(self.folder / "membership.json", value)

    def read(self, name: str) -> Any | None:
        return read_json(self.folder / f"{name}.json")

    def write(self, name: str, value: Any) -> None:
        write_json(self.folder / f"{name}.json", value)
