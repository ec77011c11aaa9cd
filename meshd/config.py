"""``meshd.yaml`` and ``gateway.yaml``: every field, read strictly, all problems at once.

The tables below are the decoder (`meshkit.model.decode`) and the list of what
there is; an unknown field is refused with the nearest known one.  Both files
share all fields but those that only one role has.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from meshkit.http.limits import GATEWAY, KNOBS, MESHD
from meshkit.model.decode import Field, ListOf, MapOf, Message, Parts, Spot
from meshkit.model.problems import Position, Problem
from meshkit.model.problems import errors as only_errors
from meshkit.model.report import Report, did_you_mean
from meshkit.model.scalars import DURATION, INT, PORT, STRING, Duration, Int, String, enum
from meshkit.model.yaml_reader import read

Role = Literal["meshd", "gateway"]
DEFAULT_PATHS: Mapping[Role, Path] = {
    "meshd": Path("/etc/meshd/meshd.yaml"),
    "gateway": Path("/etc/meshd/gateway.yaml"),
}
MAX_WORKERS = 256
HOLD_EMPTY = 60.0
MAX_SOCKET_PATH = 107


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` say why, each with its place."""

    def __init__(self, problems: list[Problem]):
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Address:
    """Where to bind or connect: a literal IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """``hold_empty`` in seconds; ``folder`` only with kind static."""

    kind: Literal["embedded", "consul", "static"] = "embedded"
    consul: str = "127.0.0.1:8500"
    token_file: Path | None = None
    ca_file: Path | None = None
    folder: Path | None = None
    hold_empty: float = HOLD_EMPTY


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One host's settings.  Gateways have no proxy and no services of their own."""

    role: Role
    source: str
    host: str
    address: str
    control: str
    token_file: Path | None
    runtime: Path
    state: Path
    mesh_port: int = 15443
    proxy: Address | None = None
    metrics: Address | None = None
    workers: int = 1
    services: Path | None = None
    discovery: DiscoveryConfig = DiscoveryConfig()
    access_log: str = "off"
    limits: Mapping[str, int] = field(default_factory=dict)
    worker_uids: frozenset[int] = frozenset()
    drain: float = 5.0
    labels: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    bind: str = "0.0.0.0"


_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")


def ip_address(text: str, spot: Spot) -> Any:
    """A literal IP address, as it stands."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return spot.error(f'"{text[:60]}" is not an IP address', "write one such as 10.0.0.5")


def server_address(text: str, spot: Spot) -> Any:
    """``name-or-address:port`` of something to connect to."""
    match = _SERVER.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        return spot.error(f'"{text[:60]}" is not host:port', "write one such as 10.0.0.2:15012")
    return text


def bind_address(text: str, spot: Spot) -> Any:
    """``127.0.0.1:15001``, or "off" → None."""
    if text == "off":
        return None
    host, _, port = text.rpartition(":")
    try:
        address = Address(str(ipaddress.ip_address(host.strip("[]"))), int(port))
    except ValueError:
        address = None
    if address is None or not 0 < address.port < 65536:
        remedy = 'write one such as 127.0.0.1:15001, or "off"'
        return spot.error(f'"{text[:60]}" is not address:port', remedy)
    return address


def host_name(text: str, spot: Spot) -> Any:
    if _HOST.fullmatch(text):
        return text
    return spot.error(
        f'"{text[:60]}" is not a host name', "use letters, digits, dots, underscores and hyphens"
    )


def account_name(text: str, spot: Spot) -> Any:
    """``<namespace>/<service account>``."""
    if re.fullmatch(r"[a-z0-9-]{1,63}/[A-Za-z0-9._-]{1,253}", text):
        return text
    return spot.error(f'"{text[:60]}" is not namespace/account', "write istio-system/mesh-gateway")


def path(text: str, spot: Spot) -> Any:
    """A path; relative ones are relative to the file that names them."""
    return (Path(spot.value.source).parent / text).absolute()


def socket_folder(text: str, spot: Spot) -> Any:
    """A path whose sockets the kernel can name (unix(7): 107 bytes)."""
    folder: Path = path(text, spot)
    if len(os.fsencode(folder / "worker.sock")) <= MAX_SOCKET_PATH:
        return folder
    return spot.error(f"{folder} is too long for the sockets in it", "choose a shorter path")


def user(text: str, spot: Spot) -> Any:
    """A Unix user's name or number → uid."""
    uid = uid_of(text)
    if uid is None:
        return spot.error(f'no user "{text[:60]}" on this host', "create it, or give its uid")
    return uid


def uid_of(name: str) -> int | None:
    """The uid of a user name or number; "" is the user that we run as."""
    if not name:
        return os.getuid()
    if name.isascii() and name.isdigit():
        return int(name) if int(name) < 2**32 - 1 else None
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _limit_name(name: str, spot: Spot) -> str | None:
    if name in KNOBS:
        return KNOBS[name]
    remedy = did_you_mean(name, KNOBS, "docs/meshd.md lists them")
    spot.error(f'unknown limit "{name[:60]}"', remedy, "unknown-field", spot.value.key_position)
    return None


_IP = String("an IP address", ip_address)
_SERVER_TYPE = String("host:port", server_address)
_BIND = String("address:port", bind_address)
_PATH = String("a path", path)
_TEXT_MAP = MapOf(STRING)


def _parts(parts: Parts) -> Parts:
    return parts


_CONTROL = Message(
    "controlPlane",
    [Field("address", _SERVER_TYPE, required=True), Field("tokenFile", _PATH)],
    _parts,
)
_CONSUL = Message(
    "discovery.consul",
    [Field("address", _SERVER_TYPE), Field("tokenFile", _PATH), Field("caFile", _PATH)],
    _parts,
)
_STATIC = Message("discovery.static", [Field("dir", _PATH, required=True)], _parts)


def _discovery(parts: Parts) -> Any:
    kind = parts.get("kind", "embedded")
    if kind == "static" and not parts.given("static"):
        remedy = "add static: {dir: /etc/meshd/discovery}"
        return parts.spot.error('kind "static" needs its folder', remedy, "required")
    consul: Parts | None = parts.get("consul")
    static: Parts | None = parts.get("static")
    return DiscoveryConfig(
        kind,
        consul.get("address", "127.0.0.1:8500") if consul else "127.0.0.1:8500",
        consul.get("tokenFile") if consul else None,
        consul.get("caFile") if consul else None,
        static.get("dir") if static else None,
        parts.get("holdEmpty", HOLD_EMPTY),
    )


_DISCOVERY = Message(
    "discovery",
    [
        Field("kind", enum("embedded", "consul", "static")),
        Field("consul", _CONSUL),
        Field("static", _STATIC),
        Field("holdEmpty", Duration(shortest=0.0)),
    ],
    _discovery,
)

_COMMON = (
    Field("host", String("a host name", host_name)),
    Field("address", _IP, required=True),
    Field("meshPort", PORT),
    Field("metrics", _BIND),
    Field("workers", Int(1, MAX_WORKERS)),
    Field("runtimeDir", String("a path", socket_folder)),
    Field("stateDir", _PATH),
    Field("controlPlane", _CONTROL, required=True),
    Field("discovery", _DISCOVERY),
    Field("accessLog", STRING),
    Field("limits", MapOf(INT, _limit_name)),
    Field("workerUsers", ListOf(String("a user", user))),
    Field("drain", DURATION),
)
_FIELDS: Mapping[Role, tuple[Field, ...]] = {
    "meshd": (*_COMMON, Field("proxy", _BIND), Field("servicesDir", _PATH)),
    "gateway": (
        *_COMMON,
        Field("labels", _TEXT_MAP),
        Field("serviceAccount", String("namespace/account", account_name)),
        Field("bind", _IP),
    ),
}


def _build(role: Role) -> Callable[[Parts], Any]:
    def build(parts: Parts) -> AgentConfig:
        control: Parts = parts.get("controlPlane")
        gateway = role == "gateway"
        name = "mesh-gateway" if gateway else "meshd"
        return AgentConfig(
            role=role,
            source=parts.spot.value.source,
            host=parts.get("host") or socket.gethostname().partition(".")[0].lower(),
            address=parts.get("address"),
            control=control.get("address"),
            token_file=control.get("tokenFile"),
            runtime=parts.get("runtimeDir", Path("/run") / name),
            state=parts.get("stateDir", Path("/var/lib") / name),
            mesh_port=parts.get("meshPort", 15443),
            proxy=None if gateway else parts.get("proxy", _default_proxy(parts)),
            metrics=parts.get("metrics", _default_metrics(parts)),
            workers=parts.get("workers") or len(os.sched_getaffinity(0)),
            services=None if gateway else parts.get("servicesDir", Path("/etc/meshd/services.d")),
            discovery=parts.get("discovery", DiscoveryConfig()),
            access_log=_access_log(parts),
            limits=parts.get("limits", {}),
            worker_uids=frozenset(parts.get("workerUsers", ())) | {os.getuid()},
            drain=parts.get("drain", 5.0),
            labels=parts.get("labels", {"istio": "ingressgateway"} if gateway else {}),
            account=parts.get("serviceAccount", "istio-system/mesh-gateway" if gateway else ""),
            bind=parts.get("bind", "0.0.0.0"),
        )

    return build


def _default_proxy(parts: Parts) -> Address | None:
    # "off" decodes to None, which `Parts.get` cannot tell from absent.
    return None if parts.given("proxy") else Address("127.0.0.1", 15001)


def _default_metrics(parts: Parts) -> Address | None:
    return None if parts.given("metrics") else Address("127.0.0.1", 15020)


def _access_log(parts: Parts) -> str:
    """``off``, ``stdout`` or an absolute path."""
    text: str = parts.get("accessLog", "off")
    return text if text in ("off", "stdout") else str(path(text, parts.at("accessLog")))


MESSAGES: Mapping[Role, Message] = {
    role: Message(f"{role}.yaml", fields, _build(role)) for role, fields in _FIELDS.items()
}


def parse_config(text: str, source: str, role: Role) -> AgentConfig:
    """The settings of one file; raises ConfigError with every problem in it."""
    report = Report()
    documents = read(text, source, report)
    decoded = None
    if len(documents) == 1:
        decoded = MESSAGES[role].decode(Spot(documents[0], "", report))
    elif not report.error_count:
        message = f"expected one YAML document, found {len(documents)}"
        report.add(Problem(Position(source, 1, 1), "", message, "see docs/meshd.md"))
    if only_errors(report.problems()) or not isinstance(decoded, AgentConfig):
        raise ConfigError(report.problems())
    _check_limits(decoded)
    return decoded


def _check_limits(config: AgentConfig) -> None:
    (GATEWAY if config.role == "gateway" else MESHD).override(config.limits)


def load_config(file: Path, role: Role) -> AgentConfig:
    """Read and parse ``file``; raises ConfigError, also where it cannot be read."""
    return parse_config(read_text(file), str(file), role)


def read_text(file: Path) -> str:
    """A file's text; ConfigError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        where = Position(str(file), 1, 1)
        remedy = "check its rights"
        if isinstance(error, FileNotFoundError):
            remedy = "write it as docs/meshd.md says, or name another with --config"
        raise ConfigError([Problem(where, "", f"cannot be read: {why}", remedy, "file")]) from error
