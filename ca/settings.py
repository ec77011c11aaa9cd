"""``mesh-ca.yaml``: what `mesh-ca` is told.  Every key has a flag of the same meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ca.template import LEAF_LIFETIME, MAX_LEAF_LIFETIME, MIN_LEAF_LIFETIME
from meshkit.identity import spiffe
from meshkit.model.report import Report
from meshkit.model.yaml_reader import read
from meshkit.names import MeshSettings

DEFAULT_STATE = Path("/var/lib/mesh-ca")
DEFAULT_LISTEN = "0.0.0.0:15012"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_KEYS = {
    "stateDir": "state_dir",
    "listen": "listen",
    "names": "names",
    "trustDomain": "trust_domain",
    "domain": "domain",
    "rootNamespace": "root_namespace",
    "leafLifetime": "leaf_lifetime",
}

_SHOWN = {field: key for key, field in _KEYS.items()}


class SettingsError(ValueError):
    """A setting that cannot be used.  ``remedy`` says what to write instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Settings:
    """``leaf_lifetime`` in seconds.  An empty trust domain &c. = what the state says."""

    state_dir: Path = DEFAULT_STATE
    listen: str = DEFAULT_LISTEN
    names: tuple[str, ...] = ()
    trust_domain: str = ""
    domain: str = ""
    root_namespace: str = ""
    leaf_lifetime: float = LEAF_LIFETIME

    def mesh(self, known: MeshSettings | None = None) -> MeshSettings:
        """The mesh asked for, completed from ``known`` or the defaults."""
        base = known or MeshSettings()
        return MeshSettings(
            self.trust_domain or base.trust_domain,
            self.domain or base.domain,
            self.root_namespace or base.root_namespace,
        )

    def address(self) -> tuple[str, int]:
        """``listen`` as (host, port)."""
        return parse_address(self.listen)

    def public_address(self) -> str:
        """Where operators' tools reach the server: a name of it, or this machine."""
        host, port = self.address()
        if host in ("", "0.0.0.0", "::"):
            host = self.names[0] if self.names else "127.0.0.1"
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_settings(path: Path | None) -> Settings:
    """Read ``mesh-ca.yaml``; the defaults without one.  SettingsError, OSError."""
    if path is None:
        return Settings()
    report = Report()
    try:
        documents = read(path.read_text(encoding="utf-8"), str(path), report)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not text: {error}", "write it in UTF-8") from error
    for problem in report.problems():
        raise SettingsError(f"{problem.position}: {problem.message}", problem.remedy)
    document = documents[0].plain() if documents else {}
    if len(documents) > 1 or not isinstance(document, dict):
        raise SettingsError(f"{path} is not a map of settings", "write lines such as `listen: …`")
    return change(Settings(), {_field(path, key): value for key, value in document.items()})


def _field(path: Path, key: Any) -> str:
    if key in _KEYS:
        return _KEYS[key]
    near = get_close_matches(str(key), _KEYS, 1)
    remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(_KEYS)}"
    raise SettingsError(f"{path}: unknown setting {key!r}", remedy)


def change(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Settings with some fields replaced by raw values (of YAML or of flags); None = not given."""
    given: dict[str, Any] = {
        name: _READERS[name](_SHOWN[name], v) for name, v in values.items() if v is not None
    }
    return replace(settings, **given)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise SettingsError(f"{name}: expected text, found {value!r}", "quote the value")
    return value


def _path(name: str, value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(name, value))


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise SettingsError(f"{name}: expected a list", "write names: [ca.example.org]")
    return tuple(_text(name, one) for one in value)


def _trust_domain(name: str, value: Any) -> str:
    try:
        return spiffe.check_trust_domain(_text(name, value))
    except spiffe.SpiffeError as error:
        raise SettingsError(str(error), "such as cluster.local or mesh.example.org") from None


def _listen(name: str, value: Any) -> str:
    parse_address(_text(name, value))
    return str(value)


def parse_address(text: str) -> tuple[str, int]:
    """``host:port``, ``[v6]:port`` or ``:port``; SettingsError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*)):(\d{1,5})", text, re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise SettingsError(f"{text!r} is no address to listen on", "write 0.0.0.0:15012")
    return match[1] or match[2] or "", int(match[3])


def _lifetime(name: str, value: Any) -> float:
    seconds = value if isinstance(value, int | float) else _duration(name, value)
    if isinstance(seconds, bool) or not MIN_LEAF_LIFETIME <= seconds <= MAX_LEAF_LIFETIME:
        raise SettingsError(f"{name}: {value!r} is not between 1m and 90d", "write 24h")
    return float(seconds)


def _duration(name: str, value: Any) -> int:
    match = re.fullmatch(r"(\d{1,9})([smhd])", str(value), re.ASCII)
    if match is None:
        raise SettingsError(f"{name}: {value!r} is no duration", "write 90s, 10m, 24h or 7d")
    return int(match[1]) * _UNITS[match[2]]


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "state_dir": _path,
    "listen": _listen,
    "names": _names,
    "trust_domain": _trust_domain,
    "domain": _text,
    "root_namespace": _text,
    "leaf_lifetime": _lifetime,
}
