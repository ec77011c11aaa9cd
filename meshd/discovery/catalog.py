"""For backends that tell everything: all that was said, and what of it is watched.

What is not watched is remembered, so that it is there at once when it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from meshd.discovery.board import Board
from meshd.discovery.view import Answer
from meshkit.names import ServiceName


class Catalog:
    def __init__(self, board: Board) -> None:
        self._board = board
        self._said: dict[ServiceName, Answer] = {}
        self._wanted: frozenset[ServiceName] | None = frozenset()

    def _is_wanted(self, service: ServiceName) -> bool:
        return self._wanted is None or service in self._wanted

    def want(self, services: Collection[ServiceName] | None) -> None:
        """Which services the view shows; None = all."""
        before = self._wanted
        self._wanted = None if services is None else frozenset(services)
        if self._wanted is not None:
            self._board.keeper.forget_others(self._wanted)
        if before is not None:
            new = {s: a for s, a in self._said.items() if s not in before and self._is_wanted(s)}
            self._show(new)
        self._board.publish()

    def update(self, answers: Mapping[ServiceName, Answer]) -> None:
        """What is said now about these services; the others are as before."""
        self._said.update(answers)
        self._show(answers)
        self._board.publish()

    def replace(self, answers: Mapping[ServiceName, Answer]) -> None:
        """What is said now about all services; those not named have nothing."""
        silent = (self._said.keys() | self._board.keeper.known()) - answers.keys()
        self.update({**dict.fromkeys(silent, Answer()), **answers})
        self._said = dict(answers)

    def _show(self, answers: Mapping[ServiceName, Answer]) -> None:
        now = self._board.clock()
        for service, answer in answers.items():
            if self._is_wanted(service):
                self._board.keeper.answer(service, answer, now)
