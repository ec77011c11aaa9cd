from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.store.base import Conflict, Store, TokenRefused
from ca.store.sqlite import SqliteStore
from tests.ca.store.conformance import StoreConformance, certificate, put, token


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = SqliteStore(tmp_path / "policy.db")
    yield opened
    await opened.close()


class TestSqlite(StoreConformance):
    async def test_it_outlives_the_process(self, tmp_path: Path) -> None:
        first = SqliteStore(tmp_path / "kept.db")
        await first.commit(0, "me", 100, "why", [put("a")])
        epoch = await first.epoch()
        await first.close()
        again = SqliteStore(tmp_path / "kept.db")
        assert [r.key for r in await again.resources()] == ["VirtualService/default/a"]
        assert await again.epoch() == epoch
        await again.close()

    async def test_two_processes_share_one_truth(self, tmp_path: Path) -> None:
        one, two = SqliteStore(tmp_path / "shared.db"), SqliteStore(tmp_path / "shared.db")
        await one.add_token(token())
        await two.consume_token("d1", "vm1", 200, certificate("a"))
        with pytest.raises(TokenRefused):
            await one.consume_token("d1", "vm1", 200, certificate("b"))
        await one.commit(0, "me", 100, "", [put("a")])
        with pytest.raises(Conflict):
            await two.commit(0, "me", 100, "", [put("b")])
        await one.close()
        await two.close()

    async def test_only_its_owner_reads_it(self, tmp_path: Path) -> None:
        opened = SqliteStore(tmp_path / "private.db")
        await opened.add_token(token())
        for path in tmp_path.glob("private.db*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        await opened.close()

    def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "new.db"
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.close()
        with pytest.raises(sqlite3.DatabaseError, match="upgrade mesh-ca"):
            SqliteStore(path)
