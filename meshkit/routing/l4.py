"""Which rules take whole connections: VirtualService.tls and .tcp (istio-semantics 1.4).

⚠ ``tls`` rules act on TLS and HTTPS ports only, ``tcp`` rules on the others that are
not HTTP; a rule of the wrong kind does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from meshkit.model.resources import L4Route, VirtualService
from meshkit.routing.names import is_tls, specificity

Owned = tuple[VirtualService, L4Route]


def tls_rules(
    virtuals: Sequence[VirtualService], gateway: str, port: int
) -> list[tuple[str, Owned]]:
    """(server name, its rule), in the order in which they are to be tried.

    ⚠ Not the rules' order: an exact name beats the longest wildcard, and only of one
    and the same name the first rule has it.
    """
    first: dict[str, Owned] = {}
    for virtual in virtuals:
        for rule in virtual.tls:
            for match in rule.match:
                if match.applies(gateway, port):
                    for name in match.sni_hosts:
                        first.setdefault(name, (virtual, rule))
    return sorted(first.items(), key=lambda item: specificity(item[0]))


def tcp_rule(virtuals: Sequence[VirtualService], gateway: str, port: int) -> Owned | None:
    """⚠ The first that applies takes every connection: nothing else tells them apart."""
    for virtual in virtuals:
        for rule in virtual.tcp:
            if not rule.match or any(match.applies(gateway, port) for match in rule.match):
                return virtual, rule
    return None


def rules_for(
    virtuals: Sequence[VirtualService], gateway: str, port: int, kinds: Iterable[str]
) -> list[tuple[tuple[str, ...], Owned]]:
    """(server names, rule) of the ``kinds`` "tls" and "tcp": TLS first, as it is narrower."""
    found: list[tuple[tuple[str, ...], Owned]] = []
    if "tls" in kinds:
        found += [((name,), owned) for name, owned in tls_rules(virtuals, gateway, port)]
    if "tcp" in kinds:
        found += [((), owned) for owned in [tcp_rule(virtuals, gateway, port)] if owned]
    return found


def kinds_of(protocols: Mapping[int, str], port: int) -> tuple[str, ...]:
    """Of a service's port; a host without a service (no ``protocols``) takes either kind."""
    if port not in protocols:
        return ("tls", "tcp")
    return ("tls",) if is_tls(protocols[port]) else ("tcp",)
