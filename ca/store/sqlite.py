"""The store in one SQLite file.

One connection, used by one thread at a time (a lock), off the event loop: a slow
disk delays its caller and nobody else.  Write-ahead log with full syncs, so that
what was answered survives a power cut.  ``BEGIN IMMEDIATE`` takes the write lock
before reading: two processes cannot both see a token unused.

``policy`` keeps every version of every resource: (key, revision) → document, NULL
where it was deleted.  What is applied at N is, for each key, the row with the
highest revision up to N.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import trio

from ca.admission import Declaration, DeclaredPort, Entitlement, merge, parse_entitlement
from ca.store.base import (
    Certificate,
    Change,
    Conflict,
    Host,
    Resource,
    Revision,
    Token,
    TokenRefused,
)

T = TypeVar("T")
KEEP_EXPIRED = 30 * 86400.0
"""Seconds for which expired tokens and certificates stay readable, for audits."""
BUSY_TIMEOUT = 5.0
SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (
  digest TEXT PRIMARY KEY, host TEXT NOT NULL, entitlements TEXT NOT NULL,
  created REAL NOT NULL, expires REAL NOT NULL, author TEXT NOT NULL, used REAL) WITHOUT ROWID;
CREATE TABLE hosts (
  name TEXT PRIMARY KEY, joined REAL NOT NULL, entitlements TEXT NOT NULL,
  declarations TEXT NOT NULL DEFAULT '[]') WITHOUT ROWID;
CREATE TABLE certificates (
  serial TEXT PRIMARY KEY, identity TEXT NOT NULL, host TEXT NOT NULL,
  not_before REAL NOT NULL, not_after REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX certificates_by_host ON certificates (host, not_before);
CREATE TABLE revisions (
  number INTEGER PRIMARY KEY, author TEXT NOT NULL, time REAL NOT NULL, message TEXT NOT NULL);
CREATE TABLE policy (
  key TEXT NOT NULL, revision INTEGER NOT NULL, kind TEXT NOT NULL, created INTEGER NOT NULL,
  source TEXT NOT NULL, document TEXT, PRIMARY KEY (key, revision)) WITHOUT ROWID;
CREATE INDEX policy_by_revision ON policy (revision);
"""

APPLIED = """
SELECT p.key, p.document, p.source, p.created, p.revision, r.author, r.time
FROM policy p JOIN revisions r ON r.number = p.revision
WHERE p.revision = (SELECT max(revision) FROM policy WHERE key = p.key AND revision <= :at)
  AND p.revision > :since
ORDER BY p.key
"""


class SqliteStore:
    """`ca.store.base.Store` in a file; made if missing, 0600."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        with self._write() as db:
            _prepare(db)

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self, begin: str = "BEGIN") -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute(begin)
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    async def _reading(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._in_thread(work, "BEGIN")

    async def _writing(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._in_thread(work, "BEGIN IMMEDIATE")

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
        def run() -> T:
            with self._transaction(begin) as db:
                return work(db)

        return await trio.to_thread.run_sync(run)

    async def epoch(self) -> str:
        row = await self._reading(
            lambda db: db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        )
        return str(row[0])

    async def add_token(self, token: Token) -> None:
        row = (
            token.digest,
            token.host,
            _entitlements_text(token.entitlements),
            token.created,
            token.expires,
            token.author,
        )
        sql = "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, NULL)"
        await self._writing(lambda db: db.execute(sql, row))

    async def tokens(self, now: float) -> list[Token]:
        sql = "SELECT * FROM tokens WHERE used IS NULL AND expires > ? ORDER BY expires, digest"
        rows = await self._reading(lambda db: db.execute(sql, (now,)).fetchall())
        return [_token(row) for row in rows]

    async def check_token(self, digest: str, host: str, now: float) -> Token:
        return await self._reading(lambda db: _usable_token(db, digest, host, now))

    async def consume_token(
        self, digest: str, host: str, now: float, certificate: Certificate
    ) -> Token:
        def work(db: sqlite3.Connection) -> Token:
            token = _usable_token(db, digest, host, now)
            db.execute("UPDATE tokens SET used = ? WHERE digest = ?", (now, digest))
            known = _host(db, host)
            entitled = merge(known.entitlements if known else (), token.entitlements)
            db.execute(
                "INSERT INTO hosts (name, joined, entitlements) VALUES (?, ?, ?) ON CONFLICT "
                "(name) DO UPDATE SET joined = excluded.joined, "
                "entitlements = excluded.entitlements",
                (host, now, _entitlements_text(entitled)),
            )
            _record(db, [certificate])
            return token

        return await self._writing(work)

    async def hosts(self) -> list[Host]:
        sql = "SELECT name, joined, entitlements FROM hosts ORDER BY name"
        rows = await self._reading(lambda db: db.execute(sql).fetchall())
        return [Host(row[0], row[1], _entitlements(row[2])) for row in rows]

    async def host(self, name: str) -> Host | None:
        return await self._reading(lambda db: _host(db, name))

    async def entitle(self, name: str, entitlements: Sequence[Entitlement]) -> bool:
        sql = "UPDATE hosts SET entitlements = ? WHERE name = ?"
        row = (_entitlements_text(merge((), entitlements)), name)
        return await self._writing(lambda db: db.execute(sql, row).rowcount > 0)

    async def forget_host(self, name: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            db.execute("DELETE FROM tokens WHERE host = ? AND used IS NULL", (name,))
            return db.execute("DELETE FROM hosts WHERE name = ?", (name,)).rowcount > 0

        return await self._writing(work)

    async def record_certificates(self, certificates: Sequence[Certificate]) -> None:
        await self._writing(lambda db: _record(db, certificates))

    async def certificates(self, host: str = "") -> list[Certificate]:
        where, values = ("WHERE host = ?", (host,)) if host else ("", ())
        sql = f"SELECT * FROM certificates {where} ORDER BY not_before DESC, serial"
        rows = await self._reading(lambda db: db.execute(sql, values).fetchall())
        return [Certificate(*row) for row in rows]

    async def declare(self, host: str, declarations: Sequence[Declaration]) -> bool:
        text = _json([declaration.to_json() for declaration in declarations])
        sql = "UPDATE hosts SET declarations = ? WHERE name = ? AND declarations <> ?"
        return await self._writing(lambda db: db.execute(sql, (text, host, text)).rowcount > 0)

    async def declarations(self) -> dict[str, list[Declaration]]:
        sql = "SELECT name, declarations FROM hosts ORDER BY name"
        rows = await self._reading(lambda db: db.execute(sql).fetchall())
        return {name: [_declaration(one) for one in json.loads(text)] for name, text in rows}

    async def commit(
        self, base: int, author: str, now: float, message: str, changes: Sequence[Change]
    ) -> Revision:
        def work(db: sqlite3.Connection) -> Revision:
            if (head := _head(db)) != base:
                raise Conflict(head)
            number = head + 1
            db.execute("INSERT INTO revisions VALUES (?, ?, ?, ?)", (number, author, now, message))
            for change in changes:
                _keep_change(db, number, change)
            return Revision(number, author, now, message, tuple(changes))

        return await self._writing(work)

    async def head(self) -> int:
        return await self._reading(_head)

    async def resources(self, at: int | None = None) -> list[Resource]:
        values = {"at": at if at is not None else 2**62, "since": 0}
        rows = await self._reading(lambda db: db.execute(APPLIED, values).fetchall())
        return [_resource(row) for row in rows if row[1] is not None]

    async def changes_since(self, revision: int) -> tuple[int, list[Resource], list[str]]:
        values = {"at": 2**62, "since": revision}

        def work(db: sqlite3.Connection) -> tuple[int, list[Any]]:
            return _head(db), db.execute(APPLIED, values).fetchall()

        head, rows = await self._reading(work)
        kept = [_resource(row) for row in rows if row[1] is not None]
        return head, kept, [row[0] for row in rows if row[1] is None]

    async def history(self, limit: int, before: int | None = None) -> list[Revision]:
        sql = "SELECT * FROM revisions WHERE number < ? ORDER BY number DESC LIMIT ?"
        bound = before if before is not None else 2**62
        return await self._reading(
            lambda db: [_revision(db, row) for row in db.execute(sql, (bound, limit)).fetchall()]
        )

    async def revision(self, number: int) -> Revision | None:
        def work(db: sqlite3.Connection) -> Revision | None:
            row = db.execute("SELECT * FROM revisions WHERE number = ?", (number,)).fetchone()
            return _revision(db, row) if row else None

        return await self._reading(work)

    async def prune(self, now: float) -> None:
        def work(db: sqlite3.Connection) -> None:
            limit = (now - KEEP_EXPIRED,)
            db.execute("DELETE FROM tokens WHERE expires < ?", limit)
            db.execute("DELETE FROM certificates WHERE not_after < ?", limit)

        await self._writing(work)

    async def close(self) -> None:
        with self._lock:
            self._db.close()


def _prepare(db: sqlite3.Connection) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(
            f"the store has schema {version}, this release knows {SCHEMA_VERSION}: upgrade mesh-ca"
        )
    if version == 0:
        for statement in filter(str.strip, SCHEMA.split(";")):
            db.execute(statement)
        db.execute("INSERT INTO meta VALUES ('epoch', ?)", (secrets.token_hex(8),))
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _usable_token(db: sqlite3.Connection, digest: str, host: str, now: float) -> Token:
    row = db.execute("SELECT * FROM tokens WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        raise TokenRefused("unknown")
    token = _token(row)
    if row[6] is not None:
        raise TokenRefused("used")
    if now >= token.expires:
        raise TokenRefused("expired")
    if token.host != host:
        raise TokenRefused("other_host")
    return token


def _token(row: Sequence[Any]) -> Token:
    return Token(row[0], row[1], _entitlements(row[2]), row[3], row[4], row[5])


def _host(db: sqlite3.Connection, name: str) -> Host | None:
    sql = "SELECT name, joined, entitlements FROM hosts WHERE name = ?"
    row = db.execute(sql, (name,)).fetchone()
    return Host(row[0], row[1], _entitlements(row[2])) if row else None


def _record(db: sqlite3.Connection, certificates: Sequence[Certificate]) -> None:
    rows = [(c.serial, c.identity, c.host, c.not_before, c.not_after) for c in certificates]
    db.executemany("INSERT INTO certificates VALUES (?, ?, ?, ?, ?)", rows)


def _keep_change(db: sqlite3.Connection, number: int, change: Change) -> None:
    """``created`` survives changes, not deletion: what comes back is young again."""
    sql = "SELECT created, document FROM policy WHERE key = ? ORDER BY revision DESC LIMIT 1"
    last = db.execute(sql, (change.key,)).fetchone()
    created = last[0] if last and last[1] is not None else number
    document = None if change.document is None else _json(change.document)
    row = (change.key, number, change.kind, created, change.source, document)
    db.execute("INSERT INTO policy VALUES (?, ?, ?, ?, ?, ?)", row)


def _head(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(number), 0) FROM revisions").fetchone()[0])


def _revision(db: sqlite3.Connection, row: Sequence[Any]) -> Revision:
    sql = "SELECT key, kind, document, source FROM policy WHERE revision = ? ORDER BY key"
    changes = tuple(
        Change(key, kind, None if document is None else json.loads(document), source)
        for key, kind, document, source in db.execute(sql, (row[0],))
    )
    return Revision(row[0], row[1], row[2], row[3], changes)


def _resource(row: Sequence[Any]) -> Resource:
    return Resource(row[0], json.loads(row[1]), *row[2:])


def _declaration(value: dict[str, Any]) -> Declaration:
    ports = tuple(DeclaredPort(**port) for port in value.pop("ports"))
    return Declaration(ports=ports, **value)


def _entitlements(text: str) -> tuple[Entitlement, ...]:
    return tuple(parse_entitlement(one) for one in json.loads(text))


def _entitlements_text(entitlements: Sequence[Entitlement]) -> str:
    return _json([str(one) for one in entitlements])


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
