"""The routes: which call, for whom, does what.  `docs/control-plane.md` describes each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ca import calls_hosts as hosts
from ca import calls_operators as operators
from ca import streams
from ca.access import Role
from ca.faults import Fault
from ca.http import Answer, Request
from ca.plane import Call, Plane

Work = Callable[[Plane, Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """``pattern`` is the path below ``/v1/``; ``*`` stands for one segment."""

    method: str
    pattern: str
    role: Role
    work: Work

    def match(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """The segments behind the stars, or None."""
        pattern = ("v1", *self.pattern.split("/"))
        if len(pattern) != len(path):
            return None
        pairs = list(zip(pattern, path, strict=True))
        if any(expected not in ("*", given) for expected, given in pairs):
            return None
        return tuple(given for expected, given in pairs if expected == "*")


ROUTES = (
    Route("POST", "join", Role.ANYONE, hosts.join),
    Route("POST", "renew", Role.ANYONE, hosts.renew),
    Route("POST", "sign", Role.HOST, hosts.sign),
    Route("POST", "services", Role.HOST, hosts.declare),
    Route("POST", "report", Role.HOST, hosts.report),
    Route("POST", "answers/*", Role.HOST, hosts.answer),
    Route("PUT", "registry", Role.HOST, hosts.register),
    Route("GET", "registry/stream", Role.MEMBER, streams.registry_stream),
    Route("GET", "stream", Role.MEMBER, streams.policy_stream),
    Route("GET", "whoami", Role.MEMBER, operators.whoami),
    Route("POST", "tokens", Role.OPERATOR, operators.create_token),
    Route("GET", "tokens", Role.OPERATOR, operators.list_tokens),
    Route("PUT", "hosts/*", Role.OPERATOR, operators.set_host),
    Route("DELETE", "hosts/*", Role.OPERATOR, operators.forget_host),
    Route("GET", "hosts/*/config", Role.OPERATOR, operators.host_config),
    Route("POST", "apply", Role.OPERATOR, operators.apply),
    Route("POST", "delete", Role.OPERATOR, operators.delete),
    Route("GET", "resources", Role.OPERATOR, operators.resources),
    Route("GET", "history", Role.OPERATOR, operators.history),
    Route("GET", "history/*", Role.OPERATOR, operators.revision),
    Route("GET", "status", Role.OPERATOR, operators.status),
)


@dataclass(frozen=True, slots=True)
class Api:
    plane: Plane

    async def handle(self, request: Request) -> Answer:
        """Answer one call; Fault for every refusal, and for our own failures a 500."""
        try:
            route, args = _find(request)
            caller = self.plane.access.caller(request.chain, route.role, self.plane.now())
            return await route.work(self.plane, Call(request, caller, args))
        except Fault as fault:
            self._note(request, fault)
            raise
        except Exception as error:
            # One call's failure must not end the server; its log has the place.
            self.plane.log.error("call_failed", path=_shown(request), error=repr(error),
                                 where=_where(error))  # fmt: skip
            raise Fault(
                500,
                "internal",
                "the server failed",
                "see the log of mesh-ca; the call may be tried again",
            ) from error

    def _note(self, request: Request, fault: Fault) -> None:
        if fault.status in (401, 403):
            self.plane.log.warning("call_refused", path=_shown(request), code=fault.code,
                                   reason=fault.message, peer=request.peer)  # fmt: skip


def _find(request: Request) -> tuple[Route, tuple[str, ...]]:
    allowed = []
    for route in ROUTES:
        args = route.match(request.path)
        if args is not None:
            if route.method == request.method:
                return route, args
            allowed.append(route.method)
    if allowed:
        methods = ", ".join(allowed)
        raise Fault(405, "method", f"{request.method} is not for this path", f"use {methods}")
    raise Fault(404, "no_such_call", f"no call {_shown(request)}", "see docs/control-plane.md")


def _shown(request: Request) -> str:
    return "/" + "/".join(request.path)[:200]


def _where(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
