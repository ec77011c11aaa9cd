"""The certificate authority of one trust domain: a root, one intermediate, leaves.

`open_authority` makes what is missing in the state directory and reads the rest,
so running it again changes nothing.  The root's key signs intermediates only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ca import template as templates
from ca.files import locked, make_private_directory, write_secret
from ca.sign import Signer, self_sign, sign
from ca.template import Template
from ca.verify import verify_authority, verify_leaf
from meshkit.identity import pem, spiffe
from meshkit.identity.csr import PublicKey
from meshkit.identity.rotation import due, validity
from meshkit.names import MeshSettings

HALF = 1.0
"""The chance given to `rotation.due` for authorities: renewed at exactly half."""


class AuthorityError(Exception):
    """The state directory cannot be used.  ``remedy`` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed leaf.  ``chain`` is PEM, leaf then intermediate; times are seconds."""

    identity: str
    serial: str
    chain: str
    not_before: int
    not_after: int


@dataclass(slots=True)
class Authority:
    """Signs for ``mesh.trust_domain``; ``foreign`` are roots of other domains (PEM)."""

    mesh: MeshSettings
    root: x509.Certificate
    intermediate: Signer
    foreign: dict[str, str]

    @property
    def root_pem(self) -> str:
        return _pem(self.root)

    def roots(self) -> dict[str, str]:
        """Trust domain → PEM of its roots, our own among them."""
        return {**self.foreign, self.mesh.trust_domain: self.root_pem}

    def fingerprint(self) -> str:
        """SHA-256 of the root, which join tokens carry."""
        return pem.fingerprint(self.root.public_bytes(Encoding.DER))

    def issue(
        self,
        identity: str,
        key: PublicKey,
        now: float,
        lifetime: float = templates.LEAF_LIFETIME,
        names: tuple[str, ...] = (),
    ) -> Issued:
        """Sign a leaf for ``identity``, which the caller has found entitled to it."""
        issuer = self.intermediate.certificate
        ends = issuer.not_valid_after_utc.timestamp()
        template = templates.leaf_template(identity, key, now, lifetime, ends, names)
        leaf = sign(template, self.intermediate)
        verify_leaf(template, [leaf, issuer, self.root], self.mesh.trust_domain, now)
        return Issued(
            identity,
            f"{leaf.serial_number:x}",
            _pem(leaf) + _pem(issuer),
            template.not_before,
            template.not_after,
        )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def open_authority(state: Path, now: float, mesh: MeshSettings | None = None) -> Authority:
    """Read the authority of ``state``; make or renew what is missing or due.

    ``mesh`` is required for a new one and must agree with an old one.  Raises
    AuthorityError, OSError.
    """
    if mesh is None and not is_initialised(state):
        raise AuthorityError(f"{state} holds no authority", "run `mesh-ca init` first")
    make_private_directory(state)
    with locked(state):
        settings = _settle_mesh(state / "mesh.json", mesh)
        root = _settle_root(state, settings.trust_domain, now)
        intermediate = _settle_intermediate(state, settings.trust_domain, root, now)
    return Authority(settings, root.certificate, intermediate, _foreign_roots(state, settings))


def is_initialised(state: Path) -> bool:
    """Whether `open_authority` finds an authority there."""
    return (state / "mesh.json").exists()


def _settle_mesh(path: Path, wanted: MeshSettings | None) -> MeshSettings:
    if wanted is not None and not path.exists():
        spiffe.server_id(wanted.trust_domain, wanted.root_namespace)
        write_secret(path, json.dumps({"version": 1, **asdict(wanted)}, indent=1).encode())
    known = _read_mesh(path)
    if wanted not in (None, known):
        raise AuthorityError(
            f"{path.parent} was made for another mesh: {_shown(known)}, not {_shown(wanted)}",
            "use another --state-dir, or the settings that this one was made with",
        )
    return known


def _shown(mesh: MeshSettings) -> str:
    return f"{mesh.trust_domain} ({mesh.domain}, {mesh.root_namespace})"


def _read_mesh(path: Path) -> MeshSettings:
    try:
        saved = json.loads(path.read_bytes())
        return MeshSettings(saved["trust_domain"], saved["domain"], saved["root_namespace"])
    except (ValueError, KeyError, TypeError) as error:
        raise AuthorityError(
            f"{path} cannot be read: {error}", "restore it from a backup of the state directory"
        ) from error


def _settle_root(state: Path, trust_domain: str, now: float) -> Signer:
    signer = _read_signer(state, "root")
    if signer is not None:
        return signer
    key = ec.generate_private_key(ec.SECP256R1())
    template = templates.root_template(trust_domain, key.public_key(), now)
    certificate = self_sign(template, key)
    verify_authority(template, certificate, certificate)
    return _keep_signer(state, "root", Signer(certificate, key))


def _settle_intermediate(state: Path, trust_domain: str, root: Signer, now: float) -> Signer:
    known = _read_signer(state, "intermediate")
    if known is not None and not due(validity(known.certificate), now, HALF):
        return known
    key = ec.generate_private_key(ec.SECP256R1())
    template = _intermediate_template(trust_domain, root, key, now)
    certificate = sign(template, root)
    verify_authority(template, certificate, root.certificate)
    return _keep_signer(state, "intermediate", Signer(certificate, key))


def _intermediate_template(
    trust_domain: str, root: Signer, key: ec.EllipticCurvePrivateKey, now: float
) -> Template:
    ends = root.certificate.not_valid_after_utc.timestamp()
    return templates.intermediate_template(trust_domain, key.public_key(), now, ends)


def _keep_signer(state: Path, name: str, signer: Signer) -> Signer:
    """Key and certificate in one file: a crash leaves the old pair or the new one."""
    key = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_secret(state / f"{name}.pem", key + _pem(signer.certificate).encode())
    return signer


def _read_signer(state: Path, name: str) -> Signer | None:
    path = state / f"{name}.pem"
    if not path.exists():
        return None
    try:
        data = path.read_bytes()
        certificate, key = pem.certificates(data)[0], load_pem_private_key(data, None)
        if isinstance(key, ec.EllipticCurvePrivateKey) and (
            key.public_key() == certificate.public_key()
        ):
            return Signer(certificate, key)
        problem = "key and certificate do not belong together"
    except ValueError as error:
        problem = str(error)
    raise AuthorityError(
        f"{path} cannot be used: {problem}", "restore it from a backup of the state directory"
    )


def _foreign_roots(state: Path, mesh: MeshSettings) -> dict[str, str]:
    """``roots.d/<trust domain>.pem``: other meshes whose identities ours may verify."""
    found: dict[str, str] = {}
    for path in sorted((state / "roots.d").glob("*.pem")):
        try:
            domain = spiffe.check_trust_domain(path.stem)
            found[domain] = pem.from_der(pem.to_der(path.read_bytes()))
        except ValueError as error:
            raise AuthorityError(f"{path}: {error}", "name it <trust domain>.pem") from error
    if mesh.trust_domain in found:
        raise AuthorityError(
            f"{state}/roots.d has roots for our own trust domain", "remove that file"
        )
    return found
