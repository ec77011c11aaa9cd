"""Which answers of a discovery backend are believed, and for how long the old one is kept.

Theory.  A backend that is ill says things that are not so: nothing at all (an
error, a timeout), nothing left (a restarted server with an empty catalog, a
token that lost its rights), or much less than before (half of the hosts cut
off from it).  Taking it at its word would empty the pools while the endpoints
are well.  Keeping what is gone for ever would send requests to nobody.  So an
answer is compared with what is shown:

* *Explained* absences are believed at once: the instance left by draining, or
  its own health check says that it fails while others are well.
* A failed answer changes nothing, without limit.
* An answer that shows nothing, or from which more than half of the instances
  without an explanation are gone (net of newcomers), is held: what is new is
  added, what is missing stays, until `HoldRules.seconds` after the first such
  answer.  An interruption by failures starts that time anew: after them the
  backend is trusted even less.

An answer that is empty because every instance fails its check is held as well:
requests fail either way, and a shared dependency that broke all checks at once
must not take down services that still half work.

Everything here is a function of values and of ``now`` (seconds of any clock).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from meshd.discovery.base import Held, Instance, View
from meshkit.names import ServiceName

Key = tuple[str, str, int]
"""(host, instance, port): which endpoint of a service an instance is."""

HOLD_SECONDS = 60.0  # limits-and-faults 5, row 6
SHRUNKEN = 0.5


def key_of(instance: Instance) -> Key:
    return instance.host, instance.instance, instance.port


@dataclass(frozen=True, slots=True)
class HoldRules:
    """``seconds`` that an empty or sharply shrunken answer is held; 0 = believe at once."""

    seconds: float = HOLD_SECONDS


@dataclass(frozen=True, slots=True)
class Answer:
    """One good answer about one service.

    ``healthy`` may be used.  ``failing`` are known and say themselves that they
    fail; ``left`` announced that they leave.
    """

    healthy: tuple[Instance, ...] = ()
    failing: frozenset[Key] = frozenset()
    left: frozenset[Key] = frozenset()


@dataclass(slots=True)
class _Service:
    shown: dict[Key, Instance] = field(default_factory=dict)
    listed: tuple[Instance, ...] = ()
    """The values of ``shown``: the same object until they change, so that whoever
    compiles views can tell by identity what did not."""
    latest: Answer = Answer()
    held: Held | None = None
    failure: Held | None = None

    def show(self, instances: Iterable[Instance]) -> None:
        self.shown = _by_key(instances)
        listed = tuple(self.shown.values())
        if listed != self.listed:
            self.listed = listed

    def state(self) -> tuple[object, ...]:
        return self.listed, self.held, self.failure


def missing_reason(shown: Collection[Key], answer: Answer) -> str:
    """Why the answer is not to be believed at once; "" when it is."""
    healthy = {key_of(instance) for instance in answer.healthy}
    expected = set(shown) - answer.left
    if expected and not healthy:
        if expected <= answer.failing:
            return f"every instance fails its health check ({len(expected)} of them)"
        return f"the answer is empty; {len(expected)} known before"
    unexplained = expected - answer.failing
    gone = unexplained - healthy
    newcomers = healthy - set(shown)
    if len(gone) - len(newcomers) > len(unexplained) * SHRUNKEN:
        return f"{len(gone)} of {len(expected)} instances missing"
    return ""


def _by_key(instances: Iterable[Instance]) -> dict[Key, Instance]:
    return {key_of(instance): instance for instance in sorted(instances, key=key_of)}


class Keeper:
    """What is shown of every service.  Methods return whether that changed."""

    def __init__(self, rules: HoldRules | None = None) -> None:
        self.rules = rules or HoldRules()
        self._services: dict[ServiceName, _Service] = {}

    def answer(self, service: ServiceName, answer: Answer, now: float) -> bool:
        """Take a good answer."""
        state = self._services.setdefault(service, _Service())
        before = state.state()
        interrupted, state.failure = state.failure is not None, None
        state.latest = answer
        reason = missing_reason(state.shown, answer) if self.rules.seconds > 0 else ""
        if reason:
            self._hold(state, service, reason, now, interrupted)
        else:
            state.held = None
            state.show(answer.healthy)
        if not state.shown and not state.held:
            del self._services[service]
        return before != state.state()

    def _hold(
        self, state: _Service, service: ServiceName, reason: str, now: float, interrupted: bool
    ) -> None:
        kept = {
            key: instance
            for key, instance in state.shown.items()
            if key not in state.latest.left and key not in state.latest.failing
        }
        # Only when nothing else is left are failing instances better than none.
        kept = kept or {k: i for k, i in state.shown.items() if k not in state.latest.left}
        state.show({**kept, **_by_key(state.latest.healthy)}.values())
        if state.held is None or interrupted:
            since = state.held.since if state.held else now
            state.held = Held(service, reason, since, now + self.rules.seconds)
        else:
            state.held = replace(state.held, reason=reason)

    def failed(self, service: ServiceName, reason: str, now: float) -> bool:
        """An answer about a service failed: keep what is shown, for as long as it takes."""
        state = self._services.get(service)
        if state is None or not state.shown:
            return False
        before = state.failure
        since = before.since if before else now
        state.failure = Held(service, reason, since, None)
        return before != state.failure

    def failed_all(self, reason: str, now: float) -> bool:
        """The backend as a whole does not answer."""
        changes = [self.failed(service, reason, now) for service in self._services]
        return any(changes)

    def expire(self, now: float) -> bool:
        """Believe the held answers whose time is over; failures have no such time."""
        due = [
            (service, state)
            for service, state in self._services.items()
            if state.held and not state.failure and (state.held.until or 0) <= now
        ]
        for service, state in due:
            state.held = None
            state.show(state.latest.healthy)
            if not state.shown:
                del self._services[service]
        return bool(due)

    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None = not by time alone."""
        times = [
            state.held.until
            for state in self._services.values()
            if state.held and state.held.until is not None and not state.failure
        ]
        return min(times, default=None)

    def forget_others(self, wanted: Collection[ServiceName]) -> bool:
        """Drop services that nobody watches any more."""
        dropped = [service for service in self._services if service not in wanted]
        for service in dropped:
            del self._services[service]
        return bool(dropped)

    def known(self) -> frozenset[ServiceName]:
        """Services with something to show."""
        return frozenset(self._services)

    def instances(self) -> Mapping[ServiceName, tuple[Instance, ...]]:
        return {name: state.listed for name, state in self._services.items()}

    def held(self) -> tuple[Held, ...]:
        found = (state.failure or state.held for state in self._services.values())
        return tuple(sorted((h for h in found if h is not None), key=lambda h: h.service))

    def view(self, connected: bool, error: str) -> View:
        """A new View; its mappings are never changed afterwards."""
        return View(self.instances(), self.held(), connected, error)
