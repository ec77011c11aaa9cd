"""What of a backend is out of order just now, told in one line."""

from __future__ import annotations

from meshd.discovery.board import Board
from meshd.discovery.timing import fault_text


class Faults:
    """Faults by source (a watch, the registration).  Publishes whatever the keeper has, too.

    ``waiting_for``: a source without whose first answer the backend tells nothing.
    """

    def __init__(self, board: Board, backend: str, waiting_for: str = "") -> None:
        self._board = board
        self._backend = backend
        self._by_source = {waiting_for: "no answer yet"} if waiting_for else {}
        self._waiting = False

    def wait(self) -> None:
        """Not connected until `settled`: what has been answered so far is not all."""
        self._waiting = True

    def settled(self) -> None:
        """Everything that was asked about at first has been answered, or has failed."""
        if self._waiting:
            self._waiting = False
            self._publish()

    def failed(self, source: str, fault: BaseException | str) -> None:
        self._by_source[source] = fault if isinstance(fault, str) else fault_text(fault)
        self._publish()

    def mended(self, source: str) -> None:
        """A source works.  Also the sign that the backend was asked at all."""
        self._by_source.pop(source, None)
        self._publish()

    def forget(self, source: str) -> None:
        """A source is no longer asked, which says nothing about the backend."""
        if self._by_source.pop(source, None) is not None:
            self._publish()

    def __contains__(self, source: str) -> bool:
        return source in self._by_source

    def summary(self) -> str:
        """ "" when all is well."""
        if not self._by_source:
            return ""
        source, text = next(iter(self._by_source.items()))
        more = len(self._by_source) - 1
        return f"{self._backend}: {source}: {text}" + (f" (and {more} more)" if more else "")

    def _publish(self) -> None:
        error = self.summary()
        if self._waiting and not error:
            error = f"{self._backend}: not every service is answered yet"
        self._board.publish(connected=not error, error=error)
