"""Records in a SQLite file; see :mod:`routing.state.records`."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from routing.state.records import REMEMBERED, STORE_TIMEOUT, Record, RecordQuery, StorageFull, encoded, unanswered
from routing.state.sqlite_direct import DECLINED, Declined, TakesLong
from routing.state.sqlite_writer import SqliteWriter

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, owner TEXT NOT NULL,
  parent TEXT NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL, version INTEGER NOT NULL,
  size INTEGER NOT NULL, holder TEXT NOT NULL DEFAULT '', held_until REAL NOT NULL DEFAULT 0, body BLOB NOT NULL,
  UNIQUE (kind, id)
);
CREATE INDEX IF NOT EXISTS records_owner ON records (kind, owner, sequence);
CREATE INDEX IF NOT EXISTS records_parent ON records (parent, kind, sequence) WHERE parent != '';
CREATE INDEX IF NOT EXISTS records_status ON records (kind, status, sequence) WHERE status != '';
CREATE INDEX IF NOT EXISTS records_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS deleted_records (
  kind TEXT NOT NULL, id TEXT NOT NULL, owner TEXT NOT NULL, parent TEXT NOT NULL, sequence INTEGER NOT NULL,
  until REAL NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deleted_records_until ON deleted_records (until);
CREATE TABLE IF NOT EXISTS record_sizes (owner TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
"""
_OVERHEAD = 200
"""Bytes that a record takes beside its body, about."""
_SHORT, _FEW = 64 * 1024, 8
"""Bytes and records that are stored without the writer's thread: a tenth of a millisecond."""
_COLUMNS = "kind, id, owner, parent, status, created_at, expires_at, version, sequence, body"
_GIVEN_UP = object()


class SqliteRecords:
    """:class:`routing.state.records.Records` by the writer of a SQLite file."""

    def __init__(self, writer: SqliteWriter) -> None:
        self._writer = writer

    async def add(
        self, records: Sequence[Record], *, room: int | None = None, give_way: Sequence[str] = ()
    ) -> None:
        bodies = [encoded(record) for record in records]
        if not records:
            return
        owner = records[0].owner
        needed = sum(len(body) + _OVERHEAD for body in bodies)

        def insert(db: sqlite3.Connection) -> bool:
            if room is not None and not _make_room(db, owner, room - needed, give_way):
                return False
            added = 0
            for record, body in zip(records, bodies, strict=True):
                values = (record.kind, record.id, owner, record.parent, record.status, record.created_at)
                size = len(body) + _OVERHEAD
                inserted = db.execute(
                    "INSERT INTO records (kind, id, owner, parent, status, created_at, expires_at, version, size, "
                    "body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, id) DO NOTHING",
                    (*values, record.expires_at, record.version, size, body),
                )
                added += size if inserted.rowcount else 0
            _grow(db, owner, added)
            return True

        def insert_few(db: sqlite3.Connection) -> bool:
            if room is not None and _used(db, owner) + needed > room:
                raise TakesLong  # many records may have to give way
            return insert(db)

        short = needed <= _SHORT and len(records) <= _FEW
        added = self._writer.at_once(insert_few) if short else DECLINED
        if not (await self.write(insert) if isinstance(added, Declined) else added):
            raise StorageFull.of(room or 0)

    async def get(self, kind: str, name: str, owner: str | None = None) -> Record | None:
        now = time.time()

        def read(db: sqlite3.Connection) -> Any:
            return db.execute(
                f"SELECT {_COLUMNS} FROM records WHERE kind = ? AND id = ? AND (? IS NULL OR owner = ?) "  # noqa: S608
                "AND coalesce(expires_at, ?) >= ?",
                (kind, name, owner, owner, now, now),
            ).fetchone()

        row = await self._read(read)
        return None if row is None else _record(row)

    async def find(self, query: RecordQuery) -> list[Record]:
        now = time.time()
        where, values = ["kind = ?", "coalesce(expires_at, ?) >= ?"], [query.kind, now, now]
        for name in ("owner", "parent", "status"):
            if (value := getattr(query, name)) is not None:
                where.append(f"{name} = ?")
                values.append(value)
        if query.after is not None:
            where.append("sequence < ?" if query.newest_first else "sequence > ?")
            values.append(query.after)
        order = "DESC" if query.newest_first else "ASC"
        sql = f"SELECT {_COLUMNS} FROM records WHERE {' AND '.join(where)} ORDER BY sequence {order} LIMIT ?"  # noqa: S608

        def read(db: sqlite3.Connection) -> list[Any]:
            return db.execute(sql, (*values, query.limit)).fetchall()

        return [_record(row) for row in await self._read(read)]

    async def replace(self, record: Record) -> Record | None:
        body = encoded(record)
        size = len(body) + _OVERHEAD

        def swap(db: sqlite3.Connection) -> bool:
            found = db.execute(
                "SELECT size FROM records WHERE kind = ? AND id = ? AND version = ?",
                (record.kind, record.id, record.version),
            ).fetchone()
            if found is None:
                return False
            db.execute(
                "UPDATE records SET body = ?, status = ?, expires_at = ?, size = ?, version = version + 1 "
                "WHERE kind = ? AND id = ?",
                (body, record.status, record.expires_at, size, record.kind, record.id),
            )
            _grow(db, record.owner, size - found[0])
            return True

        return replace(record, version=record.version + 1) if await self.write(swap) else None

    async def delete(self, kind: str, name: str, owner: str | None = None) -> bool:
        def remove(db: sqlite3.Connection) -> bool:
            where = "kind = ? AND id = ? AND (? IS NULL OR owner = ?)"
            sql = f"SELECT sequence FROM records WHERE {where}"  # noqa: S608
            found = db.execute(sql, (kind, name, owner, owner)).fetchone()
            return found is not None and _forget(db, found[0]) > 0

        return await self.write(remove)

    async def place(self, kind: str, name: str, owner: str | None = None) -> tuple[int, str] | None:
        now = time.time()
        where = "kind = ? AND id = ? AND (? IS NULL OR owner = ?)"
        sql = (
            f"SELECT sequence, parent FROM records WHERE {where} "  # noqa: S608
            f"UNION ALL SELECT sequence, parent FROM deleted_records WHERE {where} AND until >= ? LIMIT 1"
        )
        named = (kind, name, owner, owner)

        def read(db: sqlite3.Connection) -> Any:
            return db.execute(sql, (*named, *named, now)).fetchone()

        row = await self._read(read)
        return None if row is None else (row[0], row[1])

    async def used(self, owner: str) -> int:
        return await self._read(lambda db: _used(db, owner))

    async def hold(self, kind: str, name: str, holder: str, until: float) -> bool:
        now = time.time()

        def take(db: sqlite3.Connection) -> bool:
            changed = db.execute(
                "UPDATE records SET holder = ?, held_until = ? WHERE kind = ? AND id = ? "
                "AND (holder = ? OR held_until < ?)",
                (holder, until, kind, name, holder, now),
            )
            return changed.rowcount > 0

        return await self.write(take)

    async def prune(self, now: float) -> int:
        def remove(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM deleted_records WHERE until < ?", (now,))
            expired = db.execute("SELECT sequence FROM records WHERE expires_at < ? LIMIT 1000", (now,)).fetchall()
            return sum(_forget(db, sequence) for (sequence,) in expired)

        removed = 0
        while count := await self.write(remove):
            removed += count
        return removed

    async def write(self, apply: Callable[[sqlite3.Connection], T]) -> T:
        """Run a job within ``STORE_TIMEOUT`` seconds. Raises Unavailable, and the job does not run later."""
        given_up = False

        def run(db: sqlite3.Connection) -> Any:
            return _GIVEN_UP if given_up else apply(db)

        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                result: T = await self._writer.request(run)
        except OSError as error:  # TimeoutError is one
            raise unanswered() from error
        finally:
            given_up = True
        return result

    async def _read(self, apply: Callable[[sqlite3.Connection], T]) -> T:
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                result: T = await self._writer.read(apply)
        except OSError as error:
            raise unanswered() from error
        return result


def _record(row: tuple[Any, ...]) -> Record:
    kind, name, owner, parent, status, created_at, expires_at, version, sequence, body = row
    return Record(
        kind=kind,
        id=name,
        body=orjson.loads(body),
        owner=owner,
        parent=parent,
        status=status,
        created_at=created_at,
        expires_at=expires_at,
        version=version,
        sequence=sequence,
    )


def _used(db: sqlite3.Connection, owner: str) -> int:
    row = db.execute("SELECT bytes FROM record_sizes WHERE owner = ?", (owner,)).fetchone()
    return row[0] if row else 0


def _grow(db: sqlite3.Connection, owner: str, size: int) -> None:
    db.execute(
        "INSERT INTO record_sizes VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes",
        (owner, size),
    )


def _make_room(db: sqlite3.Connection, owner: str, most: int, kinds: Sequence[str]) -> bool:
    """Whether the owner's records take at most ``most`` bytes, perhaps after the deletion of old ones."""
    excess = _used(db, owner) - most
    if excess <= 0 or most < 0:
        return most >= 0
    parts = "SELECT coalesce(sum(size), 0) FROM records AS part WHERE parent = whole.id AND parent != ''"
    named = ", ".join("?" * len(kinds))
    where = f"kind IN ({named}) AND owner = ? AND status = '' AND held_until < ?"
    sql = f"SELECT sequence, size + ({parts}) FROM records AS whole WHERE {where} ORDER BY sequence"  # noqa: S608
    oldest = db.execute(sql, (*kinds, owner, time.time()))
    leaving: list[int] = []
    for sequence, size in oldest:
        leaving.append(sequence)
        excess -= size
        if excess <= 0:
            break
    if excess > 0:
        return False
    for sequence in leaving:
        _forget(db, sequence)
    return True


def _forget(db: sqlite3.Connection, sequence: int) -> int:
    """Delete a record and its parts, and note its place for lists; returns how many rows were deleted."""
    db.execute(
        "INSERT OR REPLACE INTO deleted_records "
        "SELECT kind, id, owner, parent, sequence, ? FROM records WHERE sequence = ?",
        (time.time() + REMEMBERED, sequence),
    )
    return _delete(db, sequence)


def _delete(db: sqlite3.Connection, sequence: int) -> int:
    """Delete a record and its parts; returns how many rows that were."""
    row = db.execute("DELETE FROM records WHERE sequence = ? RETURNING id, owner, size", (sequence,)).fetchone()
    if row is None:
        return 0
    name, owner, size = row
    _grow(db, owner, -size)
    parts = db.execute("SELECT sequence FROM records WHERE parent = ? AND parent != ''", (name,)).fetchall()
    return 1 + sum(_delete(db, part) for (part,) in parts)
