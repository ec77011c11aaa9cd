"""The applications of this host: every file of ``services.d``, and what conflicts.

A file that is wrong refuses the whole folder: half a host would deregister what
the other half serves.  The daemon then goes on with the services it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meshd.config import AgentConfig, ConfigError, read_text, uid_of
from meshkit.model.load import load_services
from meshkit.model.problems import NOWHERE, Position, Problem
from meshkit.model.problems import errors as only_errors
from meshkit.model.resources import LocalService


@dataclass(frozen=True, slots=True)
class HostServices:
    """The local services, and the uid of each user that owns one ("" included)."""

    services: tuple[LocalService, ...] = ()
    uids: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()


def service_id(service: LocalService) -> str:
    """``default/reviews/v1``: a workload's id in the snapshot and in discovery."""
    return f"{service.namespace}/{service.name}/{service.instance}"


def load_folder(config: AgentConfig) -> HostServices:
    """Read ``servicesDir``; raises ConfigError with every problem of every file."""
    if config.services is None:
        return HostServices((), {})
    files = sorted(p for p in _entries(config.services) if p.suffix in (".yaml", ".yml"))
    services: list[LocalService] = []
    problems: list[Problem] = []
    for file in files:
        loaded = load_services(read_text(file), str(file))
        services += loaded.services
        problems += loaded.problems
    uids, unknown = resolve_users(services)
    problems += unknown
    problems += conflicts(services, config)
    if only_errors(problems):
        raise ConfigError(problems)
    return HostServices(tuple(services), uids, tuple(problems))


def _entries(folder: Path) -> list[Path]:
    """A folder that does not exist holds nothing: a host may only call."""
    try:
        return [p for p in folder.iterdir() if not p.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        where = Position(str(folder), 1, 1)
        message = f"cannot be read: {error.strerror}"
        raise ConfigError([Problem(where, "", message, "make it a readable folder")]) from error


def resolve_users(services: Iterable[LocalService]) -> tuple[dict[str, int], list[Problem]]:
    """User → uid; a problem for each service whose user this host does not have."""
    uids: dict[str, int] = {}
    problems = []
    for service in services:
        uid = uid_of(service.user)
        if uid is None:
            message = f'no user "{service.user}" on this host'
            remedy = "create the user, or give a numeric uid"
            problems.append(Problem(service.position, "user", message, remedy, "unknown-user"))
        else:
            uids[service.user] = uid
    return uids, problems


@dataclass(frozen=True, slots=True)
class _Claim:
    """Someone needs ``address:port``; claims of one ``owner`` may share it."""

    address: str
    port: int
    owner: str
    what: str
    position: Position = NOWHERE
    field: str = ""


def conflicts(services: Sequence[LocalService], config: AgentConfig) -> list[Problem]:
    """Duplicate instances, and two that need the same address and port."""
    problems = _duplicates(services)
    taken: dict[tuple[str, int], _Claim] = {}
    for claim in _claims(services, config):
        first = taken.setdefault((claim.address, claim.port), claim)
        if first.owner == claim.owner:
            continue
        message = f"{claim.address}:{claim.port} ({claim.what}) is taken by {first.what}"
        where = "" if first.position is NOWHERE else f" (at {first.position})"
        remedy = f"give one of them another port{where}"
        problems.append(Problem(claim.position, claim.field, message, remedy, "conflict"))
    return problems


def _duplicates(services: Sequence[LocalService]) -> list[Problem]:
    problems = []
    seen: dict[str, LocalService] = {}
    for service in services:
        name = service_id(service)
        first = seen.setdefault(name, service)
        if first is not service:
            message = f"instance {name} is declared twice"
            remedy = f"give one an instance name of its own; the first is at {first.position}"
            problems.append(Problem(service.position, "instance", message, remedy, "duplicate"))
    return problems


def _claims(services: Sequence[LocalService], config: AgentConfig) -> Iterator[_Claim]:
    here = config.address
    yield _Claim(here, config.mesh_port, "meshd/mesh", "the mesh port")
    for name, bound in (("proxy", config.proxy), ("metrics", config.metrics)):
        if bound is not None:
            yield _Claim(bound.host, bound.port, f"meshd/{name}", f"meshd's {name}")
    for service in services:
        yield from _service_claims(service, here)


EVERYWHERE = ("0.0.0.0", "::")
"""An application that listens there on its service port serves plaintext by itself."""


def _service_claims(service: LocalService, here: str) -> Iterator[_Claim]:
    name, where = service_id(service), service.position
    kind = f"{service.namespace}/{service.name}"
    for index, port in enumerate(service.ports):
        label = f"ports[{index}]"
        # Instances of one service share its plaintext port; meshd balances over them.
        plain = f"plaintext of {kind}"
        if port.target != port.port or service.address not in (here, *EVERYWHERE):
            yield _Claim(here, port.port, f"plain {kind} {port.port}", plain, where, label)
        own = f"application {name} {port.target}"
        yield _Claim(service.address, port.target, own, f"application {name}", where, label)
    for index, upstream in enumerate(service.upstreams):
        address, _, port_text = upstream.listen.rpartition(":")
        label = f"upstreams[{index}].listen"
        own = f"upstream {name} {index}"
        what = f"local port of {name}"
        yield _Claim(address.strip("[]"), int(port_text), own, what, upstream.position, label)
    if service.capture:
        address, _, port_text = service.capture.rpartition(":")
        own, what = f"capture {name}", f"capture port of {name}"
        yield _Claim(address.strip("[]"), int(port_text), own, what, where, "capture")
