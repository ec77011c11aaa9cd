"""Fields that several kinds share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshkit.model.decode import Field, Message, Parts, Spot
from meshkit.model.dns import LABELS
from meshkit.model.resources import Meta, Resource

Draft = Callable[[Meta], Resource]
"""What a spec decodes to: the resource, once its metadata is known."""


class _ExportTo:
    """``exportTo``: only "everywhere" runs, which is also the default."""

    label = 'a list of namespaces; only ["*"] runs'

    def decode(self, spot: Spot) -> Any:
        data = spot.value.data
        if not isinstance(data, list):
            return spot.expected("a list", 'write exportTo: ["*"] or leave it out')
        if [item.data for item in data] in ([], ["*"]):
            return None
        return spot.not_yet(
            "exportTo other than everywhere", 'write exportTo: ["*"] or leave it out'
        )


EXPORT_TO = Field("exportTo", _ExportTo(), note='["*"] only; other values are refused')


def _selector(parts: Parts) -> Any:
    return parts.get("matchLabels", {})


WORKLOAD_SELECTOR = Message("WorkloadSelector", (Field("matchLabels", LABELS),), _selector)
