"""Age of resources: where Istio says "the oldest wins"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from meshkit.model.resources import Meta


class Aged(Protocol):
    @property
    def meta(self) -> Meta: ...


R = TypeVar("R", bound=Aged)


def by_age(resources: Iterable[R]) -> list[R]:
    """Oldest first: the revision that created it, ties by namespace and name."""
    return sorted(resources, key=lambda r: (r.meta.created, r.meta.namespace, r.meta.name))
