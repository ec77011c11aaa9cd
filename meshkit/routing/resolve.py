"""What Istio's fields come to once defaults and exceptions are applied.

Each function is one rule of istio-semantics 1.1–1.3; ⚠ marks those where a
reasonable guess is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshkit.model.problems import NOWHERE, Position, Problem
from meshkit.model.resources import (
    HTTPMatch,
    HTTPRoute,
    L4Route,
    Meta,
    Retries,
    RouteDestination,
    StringMatch,
)
from meshkit.routing.match import RegexError, full_match
from meshkit.routing.services import Service
from meshkit.snapshot.types import RetryPolicy, Route

DEFAULT_RETRY = RetryPolicy()


class Unusable(Exception):
    """A resource that cannot take effect."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def destination_port(explicit: int | None, service: Service, listener: int) -> int:
    """⚠ Explicit, else the service's only port, else the listener's (istio-semantics 1.3)."""
    if explicit is not None:
        return explicit
    return service.ports[0].port if len(service.ports) == 1 else listener


def weighted(meta: Meta, rule: HTTPRoute | L4Route) -> list[tuple[RouteDestination, int]]:
    """Destinations with weight: ⚠ a single one takes all, 0 is dropped beside others.

    Raises Unusable where nothing is left.
    """
    if len(rule.route) == 1:
        return [(rule.route[0], 1)]
    kept = [(item, item.weight) for item in rule.route if item.weight > 0]
    if not kept:
        raise Unusable(
            Problem(
                rule.position,
                "spec",
                f"{meta.key}: a rule has no destination of a weight above 0",
                "give at least one destination a weight",
            )
        )
    return kept


def retry_policy(retries: Retries | None) -> RetryPolicy:
    """⚠ Retries exist without configuration; ``{}`` or attempts 0 switch them off."""
    if retries is None:
        return DEFAULT_RETRY
    if retries.attempts == 0:
        return RetryPolicy(attempts=0, retry_on=())
    words = DEFAULT_RETRY.retry_on if retries.retry_on is None else retries.retry_on
    return RetryPolicy(retries.attempts, retries.per_try_timeout or None, words)


def origin(meta: Meta, position: Position) -> str:
    where = position if position != NOWHERE else meta.position
    return meta.key if where == NOWHERE else f"{meta.key} {where.source}:{where.line}"


def check_patterns(meta: Meta, block: HTTPMatch) -> None:
    for match in _patterns(block):
        try:
            full_match(match.value)
        except RegexError as error:
            raise Unusable(
                Problem(
                    block.position,
                    "spec.http.match",
                    f"{meta.key}: {error}",
                    "write a pattern that RE2 takes",
                )
            ) from error


def _patterns(block: HTTPMatch) -> Iterable[StringMatch]:
    named = (*block.headers, *block.without_headers, *block.query_params)
    single = (block.uri, block.method, block.authority, *(match for _, match in named))
    return (match for match in single if match is not None and match.kind == "regex")


def is_catch_all(route: Route) -> bool:
    """Prefix ``/`` or regex ``.*`` and no other condition, or no match at all."""
    return all(_takes_everything(block) for block in route.match)


def _takes_everything(block: HTTPMatch) -> bool:
    if block.uri is not None and (block.uri.kind, block.uri.value) not in _EVERY_PATH:
        return False
    return not (
        block.method
        or block.authority
        or block.headers
        or block.without_headers
        or block.query_params
    )


_EVERY_PATH = (("prefix", "/"), ("prefix", ""), ("regex", ".*"), ("present", ""))
