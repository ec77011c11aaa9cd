"""Who may have a connection, and who a TLS handshake: decided once, when it comes.

Nothing here is on the request path.  Limits count within one worker; the kernel
spreads a client's connections over the workers' sockets.

A flood of handshakes that are never finished would lock everybody out if the
newest were refused: the limit's worth of silent connections is all it takes.  So
the oldest makes room: whoever means it is done in milliseconds.
"""

from __future__ import annotations

import resource
from collections import Counter, OrderedDict
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from meshkit.http.limits import Limits
from meshkit.snapshot.types import ListenerSpec

if TYPE_CHECKING:
    from meshd.worker.stream import Stream

MAX_BUCKETS = 65_536
"""Source addresses whose handshake rate is remembered: about 15 MB."""


def source_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that a host is given."""
    if ":" not in address:
        return address
    number = IPv6Address(address.partition("%")[0])
    mapped = number.ipv4_mapped
    return str(mapped) if mapped else f"{IPv6Address(int(number) >> 64 << 64)}/64"


class Bucket:
    """Tokens that come back at a rate, up to a burst."""

    __slots__ = ("at", "tokens")

    def __init__(self, burst: float, now: float) -> None:
        self.tokens = burst
        self.at = now

    def take(self, rate: float, burst: float, now: float) -> bool:
        """One token, if there is one."""
        self.tokens = min(burst, self.tokens + (now - self.at) * rate)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Admission:
    """Open connections by listener and by source, and handshakes under way."""

    def __init__(self) -> None:
        self.total = 0
        self.most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        """The other half is for connections upstream."""
        self._listeners: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._unfinished: OrderedDict[Stream, None] = OrderedDict()
        self._buckets: dict[str, Bucket] = {}

    def enter(self, spec: ListenerSpec, source: str, limits: Limits) -> str:
        """Count a new connection; or the reason to refuse it, and nothing is counted."""
        if self.total >= self.most:
            return "connections"
        if 0 < limits.listener_connections <= self._listeners[spec.id]:
            return "listener_connections"
        if 0 < limits.source_connections <= self._sources[source]:
            return "source_connections"
        self.total += 1
        self._listeners[spec.id] += 1
        self._sources[source] += 1
        return ""

    def leave(self, spec: ListenerSpec, source: str) -> None:
        """A connection that had entered has ended."""
        self.total -= 1
        self._listeners[spec.id] -= 1
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]

    def handshake(self, stream: Stream, source: str, limits: Limits, now: float) -> str:
        """A handshake begins; "" or the limit that was hit.

        ``unfinished_handshakes`` has already closed the oldest, and this one may go on.
        """
        if limits.handshakes_per_second and not self._bucket(source, limits, now):
            return "handshake_rate"
        full = 0 < limits.unfinished_handshakes <= len(self._unfinished)
        if full:
            oldest, _ = self._unfinished.popitem(last=False)
            oldest.close()
        self._unfinished[stream] = None
        return "unfinished_handshakes" if full else ""

    def handshaken(self, stream: Stream) -> None:
        """Done or failed; harmless for a stream that began none."""
        self._unfinished.pop(stream, None)

    def _bucket(self, source: str, limits: Limits, now: float) -> bool:
        burst = max(1, limits.handshakes_burst)
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()  # the other limits hold
            bucket = self._buckets[source] = Bucket(burst, now)
        return bucket.take(limits.handshakes_per_second, burst, now)

    def sweep(self, now: float, limits: Limits) -> None:
        """Forget buckets that are full again; called once a second."""
        if self._buckets:
            full = max(1, limits.handshakes_burst) / max(1, limits.handshakes_per_second)
            self._buckets = {k: b for k, b in self._buckets.items() if now - b.at < full}
