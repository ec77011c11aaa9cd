"""What the two engines have in common: how a connection dies, and when resets go out."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from meshkit.http.h2 import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    REFUSED_STREAM,
    H2Error,
    Role,
    Settings,
    Sink,
    goaway_frame,
)
from meshkit.http.h2_guard import Guard

LIVE, TOLD = 0, 1
"""A stream's state here: whether its reset was told or asked for."""
SILENT = 2
"""Never announced: it came and went within one read."""
PEER_STREAMS = 100
"""Streams opened before the peer said how many it takes (RFC 9113 advises no fewer)."""
_BLAMELESS = frozenset((NO_ERROR, CANCEL, REFUSED_STREAM, INTERNAL_ERROR))
"""A reset asked for with another code than these is the fault of the peer."""


class _Deaf:
    """The sink of a connection that is gone."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return _ignore


def _ignore(*_: object) -> None:
    return


_DEAF = cast(Sink, _Deaf())


class BaseEngine:
    """The state both engines keep; see `meshkit.http.h2.Engine` for the methods."""

    __slots__ = (
        *("_cut", "_dead", "_error", "_guard", "_interims", "_now", "_open", "_resets"),
        *("_server", "_settings", "_sink", "_tail", "_told"),
        *("closing", "connect_protocol", "last_stream", "peer_streams"),
    )

    def __init__(self, role: Role, settings: Settings, sink: Sink) -> None:
        self._server = role == "server"
        self._settings = settings
        self._sink = sink
        self._guard = Guard(role, settings)
        self._open: dict[int, int] = {}
        self._resets: dict[int, int] = {}
        self._interims: dict[int, int] = {}
        self._tail = b""
        self._told = NO_ERROR
        self._error: H2Error | None = None
        self._now = 0.0
        self._cut = self._dead = False
        self.closing = self.connect_protocol = False
        self.last_stream = 0
        self.peer_streams = PEER_STREAMS

    def detach(self) -> None:
        """See `Engine.detach`."""
        self._sink = _DEAF

    def _raise(self) -> None:
        """Raise what came to light while nobody could be told."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _fail(self, error: H2Error, frame: bool = True) -> H2Error:
        """The connection is over; ``frame``: the GOAWAY is ours to write.

        Where the last output ended inside a frame none is written: it would be read as
        that frame's end.
        """
        self._dead = self.closing = True
        self._open.clear()
        self._resets.clear()
        if frame and not self._cut:
            self._tail += goaway_frame(self.last_stream, error.code)
        self._sink.limit(error.limit)
        return error

    def _blame(self) -> None:
        """A stream was reset because of what the peer sent (MadeYouReset)."""
        try:
            self._guard.provoked(self._now)
        except H2Error as error:
            if not self._dead:
                self._error = self._fail(error)

    def blame(self) -> None:
        self._blame()

    def _interim_ok(self, stream: int) -> bool:
        seen = self._interims.get(stream, 0) + 1
        self._interims[stream] = seen
        return seen <= self._settings.interim_responses

    def reset(self, stream: int, code: int) -> None:
        state = self._open.get(stream)
        if state == LIVE or stream in self._resets:
            if state == LIVE and code not in _BLAMELESS:
                self._blame()
            self._open[stream] = TOLD
            self._resets[stream] = code

    @property
    def streams(self) -> int:
        return len(self._open)
