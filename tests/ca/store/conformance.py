"""What every store must do: subclass `StoreConformance` and give it a ``store`` fixture."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ca.admission import Declaration, DeclaredPort, Entitlement
from ca.store.base import Certificate, Change, Conflict, Store, Token, TokenRefused

REVIEWS = Entitlement("default", "reviews")
WEB = Entitlement("default", "web", ("cart", "shop"))


def token(digest: str = "d1", host: str = "vm1", expires: float = 700.0, **more: Any) -> Token:
    entitlements = more.get("entitlements", (REVIEWS,))
    return Token(digest, host, entitlements, 100.0, expires, "spiffe://td/operator/admin")


def certificate(serial: str, host: str = "vm1", born: float = 100.0) -> Certificate:
    return Certificate(serial, f"spiffe://td/host/{host}", host, born, born + 86400)


def put(name: str, text: str = "v1", kind: Any = "created") -> Change:
    document = {"kind": "VirtualService", "metadata": {"name": name}, "spec": {"text": text}}
    return Change(f"VirtualService/default/{name}", kind, document, f"{name}.yaml")


def gone(name: str) -> Change:
    return Change(f"VirtualService/default/{name}", "deleted", None)


class StoreConformance:
    async def join(self, store: Store, host: str, *entitlements: Entitlement) -> None:
        await store.add_token(token(f"t-{host}", host, entitlements=entitlements))
        await store.consume_token(f"t-{host}", host, 150, certificate(f"s-{host}", host))

    async def test_a_token_is_consumed_once(self, store: Store) -> None:
        await store.add_token(token())
        assert await store.tokens(100) == [token()]
        assert await store.consume_token("d1", "vm1", 200, certificate("a")) == token()
        assert await store.tokens(200) == []
        with pytest.raises(TokenRefused) as refused:
            await store.consume_token("d1", "vm1", 201, certificate("b"))
        assert refused.value.fault == "used"
        assert [c.serial for c in await store.certificates()] == ["a"]

    @pytest.mark.parametrize(
        ("digest", "host", "now", "fault"),
        [
            ("other", "vm1", 200, "unknown"),
            ("d1", "vm2", 200, "other_host"),
            ("d1", "vm1", 700, "expired"),
        ],
    )
    async def test_a_refused_token_changes_nothing(
        self, store: Store, digest: str, host: str, now: float, fault: str
    ) -> None:
        await store.add_token(token())
        for attempt in (store.check_token(digest, host, now),):
            with pytest.raises(TokenRefused) as refused:
                await attempt
            assert refused.value.fault == fault
        with pytest.raises(TokenRefused):
            await store.consume_token(digest, host, now, certificate("a"))
        assert await store.hosts() == [] and await store.certificates() == []
        assert await store.check_token("d1", "vm1", 200) == token()

    async def test_of_twenty_racers_exactly_one_wins(self, store: Store) -> None:
        await store.add_token(token())
        won: list[int] = []
        lost: list[str] = []

        async def race(number: int) -> None:
            try:
                await store.consume_token("d1", "vm1", 200, certificate(f"s{number}"))
                won.append(number)
            except TokenRefused as error:
                lost.append(error.fault)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(race, number)
        assert len(won) == 1 and lost == ["used"] * 19
        assert [c.serial for c in await store.certificates("vm1")] == [f"s{won[0]}"]

    async def test_joining_adds_entitlements(self, store: Store) -> None:
        await self.join(store, "vm1", REVIEWS)
        await store.add_token(token("again", entitlements=(WEB,)))
        await store.consume_token("again", "vm1", 300, certificate("again"))
        host = await store.host("vm1")
        assert host is not None
        assert (host.joined, host.entitlements) == (300, (REVIEWS, WEB))
        assert await store.host("vm2") is None

    async def test_entitlements_can_be_set_and_a_host_forgotten(self, store: Store) -> None:
        await self.join(store, "vm1", REVIEWS, WEB)
        assert await store.entitle("vm1", [WEB])
        host = await store.host("vm1")
        assert host is not None and host.entitlements == (WEB,)
        await store.add_token(token("open"))
        await store.declare("vm1", [Declaration("default", "web", "web")])
        assert await store.forget_host("vm1")
        assert await store.hosts() == [] and await store.declarations() == {}
        assert await store.tokens(150) == []
        assert not await store.forget_host("vm1")
        assert not await store.entitle("vm1", [WEB])

    async def test_certificates_are_recorded(self, store: Store) -> None:
        await store.record_certificates([certificate("a", born=1), certificate("b", born=2)])
        await store.record_certificates([certificate("c", "vm2", born=3)])
        assert [c.serial for c in await store.certificates()] == ["c", "b", "a"]
        assert await store.certificates("vm2") == [certificate("c", "vm2", born=3)]

    async def test_a_declaration_replaces_the_last(self, store: Store) -> None:
        await self.join(store, "vm1", REVIEWS)
        first = Declaration(
            "default", "reviews", "reviews", "v1", (DeclaredPort(9080, "http", "HTTP"),), {"a": "b"}
        )
        assert await store.declare("vm1", [first])
        assert not await store.declare("vm1", [first])
        assert await store.declarations() == {"vm1": [first]}
        assert await store.declare("vm1", [])
        assert await store.declarations() == {"vm1": []}
        assert not await store.declare("unknown", [first])

    async def test_a_bundle_is_one_revision(self, store: Store) -> None:
        assert await store.head() == 0 and await store.history(10) == []
        made = await store.commit(0, "me", 100, "first", [put("a"), put("b")])
        assert (made.number, made.author, made.message) == (1, "me", "first")
        assert await store.head() == 1
        assert [r.key for r in await store.resources()] == [
            "VirtualService/default/a",
            "VirtualService/default/b",
        ]
        kept = await store.revision(1)
        assert kept == made
        assert await store.revision(2) is None

    async def test_a_change_for_another_revision_conflicts(self, store: Store) -> None:
        await store.commit(0, "me", 100, "", [put("a")])
        with pytest.raises(Conflict) as conflict:
            await store.commit(0, "you", 101, "", [put("b")])
        assert conflict.value.head == 1
        assert await store.head() == 1 and len(await store.resources()) == 1

    async def test_of_twenty_writers_at_one_revision_one_wins(self, store: Store) -> None:
        won: list[int] = []

        async def write(number: int) -> None:
            try:
                await store.commit(0, f"w{number}", 100, "", [put(f"r{number}")])
                won.append(number)
            except Conflict as conflict:
                assert conflict.head == 1

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(write, number)
        assert len(won) == 1
        assert [r.author for r in await store.resources()] == [f"w{won[0]}"]

    async def test_every_revision_is_kept(self, store: Store) -> None:
        await store.commit(0, "me", 100, "one", [put("a", "v1"), put("b", "v1")])
        await store.commit(1, "you", 200, "two", [put("a", "v2", "configured")])
        await store.commit(2, "me", 300, "three", [gone("b"), put("c", "v1")])
        texts = {
            at: {r.key[-1]: r.document["spec"]["text"] for r in await store.resources(at)}
            for at in (0, 1, 2, 3)
        }
        assert texts == {
            0: {},
            1: {"a": "v1", "b": "v1"},
            2: {"a": "v2", "b": "v1"},
            3: {"a": "v2", "c": "v1"},
        }
        assert [r.number for r in await store.history(2)] == [3, 2]
        assert [r.number for r in await store.history(5, before=2)] == [1]
        a, _ = await store.resources()
        assert (a.created, a.revision, a.author, a.time) == (1, 2, "you", 200)

    async def test_changes_since_a_revision(self, store: Store) -> None:
        await store.commit(0, "me", 100, "", [put("a"), put("b")])
        await store.commit(1, "me", 200, "", [put("a", "v2", "configured")])
        await store.commit(2, "me", 300, "", [gone("b")])
        head, changed, deleted = await store.changes_since(1)
        assert (head, [r.key for r in changed], deleted) == (
            3,
            ["VirtualService/default/a"],
            ["VirtualService/default/b"],
        )
        assert await store.changes_since(3) == (3, [], [])

    async def test_what_comes_back_is_young_again(self, store: Store) -> None:
        await store.commit(0, "me", 100, "", [put("a")])
        await store.commit(1, "me", 200, "", [gone("a")])
        await store.commit(2, "me", 300, "", [put("a")])
        assert [r.created for r in await store.resources()] == [3]

    async def test_the_history_has_one_name(self, store: Store) -> None:
        assert await store.epoch() == await store.epoch() != ""

    async def test_pruning_keeps_what_is_recent(self, store: Store) -> None:
        await store.add_token(token("old", expires=700))
        await store.add_token(token("new", expires=3e6))
        await store.record_certificates([certificate("old", born=0), certificate("new", born=3e6)])
        await store.prune(3e6)
        assert [c.serial for c in await store.certificates()] == ["new"]
        assert [t.digest for t in await store.tokens(100)] == ["new"]
