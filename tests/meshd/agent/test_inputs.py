from __future__ import annotations

import json
from typing import Any

import pytest

from meshd.agent.context import Instances
from meshd.agent.inputs import (
    dump_instances,
    effective_instances,
    is_informed,
    restore_instances,
)
from meshd.discovery.base import Instance, View
from meshkit.names import ServiceName

WEB, SHOP = ServiceName("default", "web"), ServiceName("default", "shop")


def instance(service: ServiceName, host: str) -> Instance:
    return Instance(service, "v1", host, "10.0.0.1", 80, "HTTP", 15443, "http", {"app": "x"}, 3)


REMEMBERED = {WEB: (instance(WEB, "old"),), SHOP: (instance(SHOP, "old"),)}
LIVE = {WEB: (instance(WEB, "new"),)}


def test_before_discovery_speaks_the_remembered_instances_stand_in() -> None:
    assert effective_instances(View({}, connected=False), REMEMBERED, None, 60) == REMEMBERED


def test_a_live_answer_wins_also_an_empty_one() -> None:
    live = {WEB: LIVE[WEB], SHOP: ()}
    assert effective_instances(View(live), REMEMBERED, 0.0, 60) == live


def test_a_service_not_answered_yet_is_remembered_until_the_hold_is_over() -> None:
    assert effective_instances(View(LIVE), REMEMBERED, 59.0, 60)[SHOP] == REMEMBERED[SHOP]
    assert effective_instances(View(LIVE), REMEMBERED, 60.0, 60) == LIVE


@pytest.mark.parametrize(
    ("connected", "remembered", "told", "waited", "informed"),
    [
        (False, {}, True, 59.0, False),
        (True, {}, True, 0.0, True),
        (True, {}, False, 59.0, False),
        (False, REMEMBERED, True, 0.0, True),
        (False, {}, False, 60.0, True),
    ],
)
def test_a_host_is_informed_by_an_answer_by_its_memory_or_by_patience(
    connected: bool, remembered: Instances, told: bool, waited: float, informed: bool
) -> None:
    view = View({}, connected=connected)
    assert is_informed(view, remembered, told, waited, 60.0) is informed


def test_instances_come_back_from_disk() -> None:
    saved = json.loads(json.dumps(dump_instances(REMEMBERED)))
    assert restore_instances(saved) == REMEMBERED


@pytest.mark.parametrize(
    "saved",
    [None, 3, {"version": 2}, {"version": 1}, {"version": 1, "services": {"default/web": [{}]}}],
)
def test_a_file_that_cannot_be_used_counts_as_none(saved: Any) -> None:
    assert restore_instances(saved) == {}
