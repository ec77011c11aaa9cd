"""An operator's context: the directory that meshctl is pointed at.

``cert.pem``, ``key.pem``, ``roots.pem`` and ``operator.yaml`` (address, trust
domain), all 0600.  Whoever has it may do anything to the mesh's policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ca.authority import Authority, AuthorityError, Issued
from ca.files import make_private_directory, write_secret
from ca.template import OPERATOR_LIFETIME
from meshkit.identity import pem, spiffe
from meshkit.identity.csr import judge_request, make_key_and_request
from meshkit.identity.judge import Refused, leaf_identity
from meshkit.identity.rotation import due, validity


def write_operator(
    folder: Path, authority: Authority, name: str, address: str, now: float
) -> Issued | None:
    """Make or complete a context; the certificate that was issued, None if none was due.

    A certificate past half of its life is replaced, with its key.
    """
    try:
        identity = spiffe.operator_id(authority.mesh.trust_domain, name)
    except spiffe.SpiffeError as error:
        raise AuthorityError(f"operator {name!r}: {error}", "use letters, digits and '-'") from None
    make_private_directory(folder)
    issued = (
        None if _is_current(folder, identity, now) else _issue(folder, authority, identity, now)
    )
    _write_if_changed(folder / "roots.pem", authority.root_pem.encode())
    mesh = authority.mesh
    facts = {
        "address": address,
        "name": name,
        "trustDomain": mesh.trust_domain,
        "rootNamespace": mesh.root_namespace,
    }
    _write_if_changed(folder / "operator.yaml", _yaml(facts))
    return issued


def _is_current(folder: Path, identity: str, now: float) -> bool:
    try:
        (folder / "key.pem").read_bytes()
        leaf = pem.certificates((folder / "cert.pem").read_bytes())[0]
        return str(leaf_identity(leaf)) == identity and not due(validity(leaf), now, 1.0)
    except (FileNotFoundError, ValueError, Refused):
        return False


def _issue(folder: Path, authority: Authority, identity: str, now: float) -> Issued:
    key, request = make_key_and_request()
    issued = authority.issue(identity, judge_request(request, identity), now, OPERATOR_LIFETIME)
    # Between the two writes the pair does not fit; the next init mends that.
    (folder / "cert.pem").unlink(missing_ok=True)
    write_secret(folder / "key.pem", key)
    write_secret(folder / "cert.pem", issued.chain.encode())
    return issued


def _write_if_changed(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        write_secret(path, data)


def _yaml(facts: Mapping[str, str]) -> bytes:
    """JSON strings are YAML strings, whatever they hold."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in facts.items()).encode()
