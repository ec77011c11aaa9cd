"""The operator's context: where the policy server is, and who we are to it.

A context is a directory as `mesh-ca init` makes it: ``operator.yaml`` (address,
trust domain), ``cert.pem``, ``key.pem``, ``roots.pem``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from meshctl.errors import Failure
from meshctl.exits import Exit
from meshkit.model.report import Report
from meshkit.model.yaml_reader import read

VARIABLE = "MESHCTL_CONTEXT"
FILES = ("operator.yaml", "cert.pem", "key.pem", "roots.pem")
SYSTEM = Path("/var/lib/mesh-ca/operator")
REMEDY = (
    "copy the directory STATE/operator that `mesh-ca init` made on the control host, and name "
    f"it with --context DIR or ${VARIABLE}"
)


@dataclass(frozen=True)
class Operator:
    """``address`` is ``host:port`` of the policy server."""

    folder: Path
    address: str
    trust_domain: str
    root_namespace: str

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def roots(self) -> Path:
        return self.folder / "roots.pem"

    @cached_property
    def _leaf(self) -> tuple[str, float]:
        # Imported here: only `check` looks into the certificate.
        from meshkit.identity import judge, pem, rotation

        try:
            leaf = pem.certificates(self.certificate.read_bytes())[0]
            return str(judge.leaf_identity(leaf)), rotation.validity(leaf).expires
        except (ValueError, judge.Refused) as fault:
            raise Failure(
                Exit.NO_CONTEXT, f"{self.certificate} is no operator's certificate: {fault}", REMEDY
            ) from None

    @property
    def name(self) -> str:
        """The SPIFFE id under which the server knows us."""
        return self._leaf[0]

    @property
    def not_after(self) -> float:
        """Seconds since 1970."""
        return self._leaf[1]


def candidates(explicit: str | None, environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Where to look, in order.  One that was named is the only one."""
    if explicit:
        yield Path(explicit)
    elif environ.get(VARIABLE):
        yield Path(environ[VARIABLE])
    else:
        yield home / ".config" / "baremesh"
        yield SYSTEM


def _settings(path: Path) -> dict[str, Any]:
    report = Report()
    documents = read(path.read_text(encoding="utf-8"), str(path), report)
    value = documents[0].plain() if len(documents) == 1 else None
    if report.error_count or not isinstance(value, dict) or not value.get("address"):
        lines = [str(problem) for problem in report.problems()]
        raise Failure(
            Exit.NO_CONTEXT, f"{path} names no policy server", "expected: address: HOST:PORT", lines
        )
    return value


def load(folder: Path) -> Operator:
    """Read one context.  Raises Failure when a file is missing or unreadable."""
    try:
        for name in FILES:
            (folder / name).open("rb").close()
        settings = _settings(folder / "operator.yaml")
    except OSError as fault:
        why = f"{fault.filename}: {fault.strerror}"
        remedy = f"run as its owner (`sudo`), or {REMEDY}" if _denied(fault) else REMEDY
        raise Failure(
            Exit.NO_CONTEXT, f"the context {folder} lacks a file ({why})", remedy
        ) from None
    return Operator(
        folder,
        str(settings["address"]),
        str(settings.get("trustDomain", "cluster.local")),
        str(settings.get("rootNamespace", "istio-system")),
    )


def _denied(fault: OSError) -> bool:
    return isinstance(fault, PermissionError)


def _exists(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except PermissionError:
        return True


def find(explicit: str | None) -> Operator:
    """The operator's context: --context, $MESHCTL_CONTEXT, home, the control host's own."""
    home = Path("~").expanduser()
    places = list(candidates(explicit, os.environ, home))
    for folder in places:
        if _exists(folder):
            return load(folder)
    looked = ", ".join(map(str, places))
    raise Failure(Exit.NO_CONTEXT, f"no operator context; looked in {looked}", REMEDY)
