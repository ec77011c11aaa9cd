from __future__ import annotations

from typing import Any

from ca.registry import Registry


def one(service: str, port: int = 80) -> dict[str, Any]:
    return {"namespace": "default", "service": service, "port": port}


def ports(registry: Registry, since: int = 0) -> dict[str, list[int]]:
    found = registry.services(since)
    return {name: [i["port"] for i in instances] for name, instances in found.items()}


def test_sets_of_several_hosts_are_joined() -> None:
    registry = Registry()
    assert registry.put("vm2", [one("a", 2), one("b", 2)], 30, 0)
    assert registry.put("vm1", [one("a", 1)], 30, 0)
    assert ports(registry) == {"default/a": [1, 2], "default/b": [2]}
    assert {i["host"] for i in registry.services()["default/a"]} == {"vm1", "vm2"}


def test_a_renewal_without_change_wakes_nobody() -> None:
    registry = Registry()
    assert registry.put("vm1", [one("a")], 30, 0)
    assert not registry.put("vm1", [one("a")], 30, 10)
    assert registry.generation == 1 and registry.next_expiry() == 40


def test_only_what_changed_is_told() -> None:
    registry = Registry()
    registry.put("vm1", [one("a"), one("b")], 30, 0)
    seen = registry.generation
    registry.put("vm1", [one("a"), one("b", 81)], 30, 0)
    assert ports(registry, seen) == {"default/b": [81]}
    registry.put("vm1", [], 30, 0)
    assert ports(registry, seen) == {"default/a": [], "default/b": []}
    assert ports(registry) == {}


def test_leases_end_on_time() -> None:
    registry = Registry()
    registry.put("vm1", [one("a")], 10, 0)
    registry.put("vm2", [one("a", 81)], 20, 0)
    assert registry.next_expiry() == 10
    assert registry.expire(9.9) == []
    assert registry.expire(10) == ["vm1"]
    assert ports(registry) == {"default/a": [81]}
    assert registry.expire(25) == ["vm2"] and registry.next_expiry() is None


def test_a_removed_host_leaves_at_once() -> None:
    registry = Registry()
    registry.put("vm1", [one("a")], 10, 0)
    assert registry.forget("vm1") and not registry.forget("vm1")
    assert ports(registry) == {}
