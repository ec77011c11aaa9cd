"""Who calls, and whether that kind of caller may make this call.

The certificate is judged again at each call: a connection outlives certificates,
and a host may be forgotten while it is connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Flag, auto

from ca.directory import Directory
from ca.faults import Fault
from meshkit.identity import spiffe
from meshkit.identity.judge import Judge


class Role(Flag):
    """Kinds of callers; a call names those that may make it."""

    ANYONE = auto()
    HOST = auto()
    OPERATOR = auto()
    MEMBER = HOST | OPERATOR


@dataclass(frozen=True, slots=True)
class Caller:
    """``name`` is the host's or the operator's; ``expires`` seconds since 1970."""

    role: Role
    identity: str = ""
    name: str = ""
    expires: float = 0.0


ANYONE = Caller(Role.ANYONE)


@dataclass(slots=True)
class Access:
    judge: Judge
    directory: Directory
    trust_domain: str

    def caller(self, chain: Sequence[bytes], allowed: Role, now: float) -> Caller:
        """The caller behind a verified chain; Fault 401 or 403 for one who may not."""
        if allowed & Role.ANYONE:
            return ANYONE
        if not chain:
            raise Fault(
                401,
                "no_certificate",
                "this call needs a client certificate",
                "join with a token first, or use an operator's context (meshctl --context)",
            )
        caller = self._judge(chain, now)
        if caller.role & allowed:
            return caller
        kinds = " or ".join(
            r.name.lower() for r in (Role.HOST, Role.OPERATOR) if r & allowed and r.name
        )
        raise Fault(
            403,
            "wrong_role",
            f"{caller.identity} is not allowed to make this call; it is for: {kinds}",
            "operators use the context that `mesh-ca init` made",
        )

    def _judge(self, chain: Sequence[bytes], now: float) -> Caller:
        verdict = self.judge.verdict(chain)
        refusal = verdict.refusal_at(now)
        if refusal:
            raise Fault(
                403,
                "certificate_refused",
                f"the client certificate is refused: {refusal} {verdict.detail}".rstrip(),
                "use a certificate that this mesh's authority issued and that is valid now",
            )
        identity = spiffe.parse(verdict.identity)
        if identity.trust_domain == self.trust_domain:
            if identity.operator:
                return Caller(Role.OPERATOR, verdict.identity, identity.operator, verdict.not_after)
            if identity.host:
                self._check_known(identity.host)
                return Caller(Role.HOST, verdict.identity, identity.host, verdict.not_after)
        raise Fault(
            403,
            "wrong_role",
            f"{verdict.identity} speaks to other services, not to the control plane",
            "call with the host's own certificate or an operator's",
        )

    def _check_known(self, host: str) -> None:
        if host not in self.directory.hosts:
            raise Fault(
                403,
                "host_unknown",
                f"host {host} has been removed from the mesh",
                f"an operator may run: meshctl token create --host {host} --account …; "
                "then let the host join again",
            )
