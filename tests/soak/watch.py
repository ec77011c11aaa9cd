"""What the workers hold: memory, descriptors, fibers and connections, now and at most."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event, Thread
from types import TracebackType

from tests.peers.memory import descriptors, resident
from tests.peers.mesh import PeerMesh
from tests.peers.patience import until

SIDES = ("near", "far")
EVERY = 0.1
"""Seconds between two looks: a look costs a millisecond."""
MIB = 1 << 20
PATIENCE = 90.0
FIRST_USES = 4
"""Descriptors that the first use of something opens and keeps: netlink and the like."""


@dataclass(frozen=True, slots=True)
class Held:
    """``memory`` in bytes (PSS), of one worker."""

    memory: int
    descriptors: int
    fibers: int
    connections: int


def held(mesh: PeerMesh, side: str) -> Held:
    pid = getattr(mesh, side).process.pid
    alive = mesh.alive(side)
    return Held(resident(pid), descriptors(pid), alive["fibers"], alive["connections"])


def wait_until_idle(mesh: PeerMesh, before: dict[str, Held], spare: int = 0) -> None:
    """Until descriptors, fibers and connections are no more than before.

    Idle connections of the pools end within `upstream_idle_mesh`, which the
    soak's mesh has short.  ``spare``: descriptors that a first use may open for
    good.  AssertionError with what is left otherwise.
    """

    def back() -> bool:
        now = {side: held(mesh, side) for side in SIDES}
        return all(
            now[side].descriptors <= was.descriptors + spare
            and now[side].fibers <= was.fibers
            and now[side].connections <= was.connections
            for side, was in before.items()
        )

    try:
        until(back, "idle again", PATIENCE)
    except AssertionError:
        left = {side: held(mesh, side) for side in SIDES}
        raise AssertionError(f"not back to the start: {before} became {left}") from None


class Peak:
    """The most memory that each worker had while the block ran."""

    def __init__(self, mesh: PeerMesh) -> None:
        self._pids = {side: getattr(mesh, side).process.pid for side in SIDES}
        self.before = {side: resident(pid) for side, pid in self._pids.items()}
        self.most = dict(self.before)
        self._ended = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            for side, pid in self._pids.items():
                self.most[side] = max(self.most[side], resident(pid))

    @property
    def grown(self) -> dict[str, float]:
        """MiB above the start, by side."""
        return {side: (self.most[side] - self.before[side]) / MIB for side in SIDES}
