"""The state in a SQLite file, for one or several gateway processes of one machine.

Every operation is a job of :class:`routing.state.sqlite_writer.SqliteWriter`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from catalog.errors import ConfigurationError
from routing.outcomes import Outcome
from routing.state.protocol import (
    ONCE,
    USAGE_SUMS,
    Charge,
    Claim,
    Claimed,
    Counter,
    Hold,
    OutcomeQuery,
    UsageRow,
    decode,
    encode,
)
from routing.state.row_batches import RowBatcher
from routing.state.sqlite_records import SCHEMA as RECORDS_SCHEMA
from routing.state.sqlite_records import SqliteRecords
from routing.state.sqlite_writer import NewerLayout, SqliteWriter

VERSION = 1
"""The layout of the file. A change that an older Roundhouse cannot read gets the next number, and statements that
bring the one before it up to date (``upgrades`` of the writer)."""
_MAX_PENDING_OUTCOMES = 100_000
"""Outcomes that may wait for a stuck disk; further ones are dropped."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
  kind TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, expires_at REAL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (
  name TEXT PRIMARY KEY, value INTEGER NOT NULL, expires_at REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL, day TEXT NOT NULL, amount INTEGER NOT NULL,
  key TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS usage (
  day TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL, key TEXT NOT NULL,
  calls INTEGER NOT NULL, unknown INTEGER NOT NULL, input INTEGER NOT NULL, output INTEGER NOT NULL,
  cached INTEGER NOT NULL, reasoning INTEGER NOT NULL, units REAL NOT NULL, cost INTEGER NOT NULL,
  estimated INTEGER NOT NULL, PRIMARY KEY (day, model, endpoint, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (at REAL NOT NULL, trace TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS outcomes_at ON outcomes (at);
CREATE INDEX IF NOT EXISTS outcomes_trace ON outcomes (trace);
"""

_COLUMNS = ("day", "model", "endpoint", "key", *USAGE_SUMS)
_ADD_USAGE = (
    f"INSERT INTO usage ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (day, model, endpoint, key) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in USAGE_SUMS)
)
_usage_values = attrgetter(*_COLUMNS)
_ADD_COUNTER = (
    "INSERT INTO counters (name, value, expires_at) VALUES (?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
)


class SqliteState:
    """:class:`routing.state.protocol.State` in the file ``path``. ``start`` before use, ``close`` after it."""

    def __init__(self, path: Path) -> None:
        self._writer = SqliteWriter(path, _SCHEMA + RECORDS_SCHEMA, version=VERSION)
        self.records = SqliteRecords(self._writer)
        self._outcomes = RowBatcher(
            self._writer, "INSERT INTO outcomes VALUES (?, ?, ?)", _outcome_values, max_rows=_MAX_PENDING_OUTCOMES
        )
        self._uncapped_usage = RowBatcher(self._writer, _ADD_USAGE, _usage_values)

    @property
    def generation(self) -> int:
        return self._writer.generation

    @property
    def lag(self) -> float:
        return self._writer.lag

    async def start(self) -> None:
        try:
            await self._writer.start()
        except NewerLayout as error:
            raise ConfigurationError(
                f"The state file {self._writer.path} was written by a newer Roundhouse: {error}. "
                "Install that one, put the backup of this one in its place, or set another data folder."
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(
                f"The state file {self._writer.path} cannot be opened: {error}. "
                "Free space on its disk, make its folder writable, or set another data folder."
            ) from error

    async def close(self) -> None:
        await self._writer.stop()

    async def flush(self) -> None:
        await self._writer.request(lambda _: None)

    def put(self, kind: str, name: str, document: Any, *, expires_at: float | None = None) -> None:
        if document is None:
            sql, values = "DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name)
            self._writer.submit(lambda db: db.execute(sql, values))
            return
        row = (kind, name, encode(document), expires_at)
        self._writer.submit(lambda db: db.execute("REPLACE INTO documents VALUES (?, ?, ?, ?)", row))

    async def store(self, kind: str, name: str, document: Any) -> None:
        row = (kind, name, encode(document), None)
        await self.records.write(lambda db: db.execute("REPLACE INTO documents VALUES (?, ?, ?, ?)", row).rowcount)

    async def document(self, kind: str, name: str) -> Any:
        now = time.time()

        def read(db: sqlite3.Connection) -> tuple[bytes] | None:
            row: tuple[bytes] | None = db.execute(
                "SELECT body FROM documents WHERE kind = ? AND name = ? AND coalesce(expires_at, ?) >= ?",
                (kind, name, now, now),
            ).fetchone()
            return row

        row = await self._writer.read(read)
        try:
            return None if row is None else decode(row[0])
        except ValueError:
            return None

    async def documents(self, kind: str) -> dict[str, Any]:
        now = time.time()

        def read(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
            return db.execute(
                "SELECT name, body FROM documents WHERE kind = ? AND coalesce(expires_at, ?) >= ?",
                (kind, now, now),
            ).fetchall()

        found: dict[str, Any] = {}
        for name, body in await self._writer.read(read):
            try:
                found[name] = decode(body)
            except ValueError:
                continue
        return found

    def count(self, counters: Sequence[Counter], amount: int, *, urgent: bool = False) -> None:
        rows = [(counter.name, amount, counter.expires_at) for counter in counters]
        self._writer.submit(lambda db: db.executemany(_ADD_COUNTER, rows), urgent=urgent)

    async def claim(self, claims: Sequence[Claim], timeout: float) -> Claimed:
        given_up = False

        def decide(db: sqlite3.Connection) -> Claimed | None:
            return None if given_up else _claim(db, claims)

        decision = self._writer.request(decide)
        try:
            async with asyncio.timeout(timeout):
                claimed: Claimed = await decision
        finally:
            given_up = True
        return claimed

    async def counts(self, prefix: str) -> dict[str, int]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)

        def read(db: sqlite3.Connection) -> dict[str, int]:
            sql = "SELECT name, value FROM counters WHERE name >= ? AND name < ?"
            return dict(db.execute(sql, (prefix, end)).fetchall())

        counts: dict[str, int] = await self._writer.read(read)
        return counts

    async def hold(self, hold: Hold, timeout: float) -> Counter | None:
        forced = False

        def decide(db: sqlite3.Connection) -> Counter | None:
            exceeded = None if forced else _exceeded_counter(db, hold)
            if exceeded is None:
                _insert_hold(db, hold)
            return exceeded

        decision = self._writer.request(decide)
        done, _ = await asyncio.wait((decision,), timeout=timeout)
        if done:
            refused: Counter | None = decision.result()
            return refused
        forced = True
        return None

    def charge(self, charge: Charge) -> asyncio.Future[None]:
        if charge.hold is None and not charge.counters and charge.once is None:
            written = self._uncapped_usage.add(charge.usage)
            assert written is not None, "usage is never dropped"
            return written
        return self._writer.request(lambda db: _settle(db, charge), urgent=charge.hold is not None)

    async def recover(self, abandoned: Callable[[str, float], bool]) -> int:
        def settle(db: sqlite3.Connection) -> int:
            recovered = 0
            for row in db.execute("SELECT id, owner, at, day, amount, key, model, endpoint FROM holds").fetchall():
                identity, owner, at, day, amount, key, model, endpoint = row
                if abandoned(owner, at):
                    usage = UsageRow(day, model, endpoint, key, calls=1, unknown=1, estimated=amount)
                    db.execute("DELETE FROM holds WHERE id = ?", (identity,))
                    _add_usage(db, usage)
                    recovered += 1
            return recovered

        count: int = await self._writer.request(settle)
        return count

    async def usage(self, first_day: str, last_day: str) -> list[UsageRow]:
        def read(db: sqlite3.Connection) -> list[UsageRow]:
            sql = (
                f"SELECT {', '.join(_COLUMNS)} FROM usage WHERE day BETWEEN ? AND ? "  # noqa: S608
                "ORDER BY day, model, endpoint, key"
            )
            return [UsageRow(*row) for row in db.execute(sql, (first_day, last_day))]

        rows: list[UsageRow] = await self._writer.read(read)
        return rows

    def add_outcome(self, outcome: Outcome) -> None:
        self._outcomes.add(outcome)

    async def outcomes(self, query: OutcomeQuery) -> list[dict[str, Any]]:
        def read(db: sqlite3.Connection) -> list[tuple[bytes]]:
            return db.execute(
                "SELECT body FROM outcomes WHERE at >= ? AND at < ? AND (? IS NULL OR trace = ?) "
                "ORDER BY at DESC, rowid DESC LIMIT ?",
                (query.since, query.until, query.trace, query.trace, query.limit),
            ).fetchall()

        return [decode(body) for (body,) in await self._writer.read(read)]

    async def prune(self, *, outcomes_before: float, now: float) -> None:
        def delete(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM outcomes WHERE at < ?", (outcomes_before,))
            db.execute("DELETE FROM counters WHERE expires_at < ?", (now,))
            db.execute("DELETE FROM documents WHERE expires_at < ?", (now,))

        await self._writer.request(delete)
        await self.records.prune(now)


def _claim(db: sqlite3.Connection, claims: Sequence[Claim]) -> Claimed:
    totals = [_value(db, claim.counter) for claim in claims]
    granted = [claim.granted(total) for claim, total in zip(claims, totals, strict=True)]
    if None in granted:
        return Claimed(granted.index(None), (), tuple(totals))
    added = tuple(amount for amount in granted if amount is not None)
    for claim, amount in zip(claims, added, strict=True):
        _add_to_counters(db, (claim.counter,), amount)
    return Claimed(None, added, tuple(total + amount for total, amount in zip(totals, added, strict=True)))


def _value(db: sqlite3.Connection, counter: Counter) -> int:
    row = db.execute("SELECT value FROM counters WHERE name = ?", (counter.name,)).fetchone()
    return row[0] if row else 0


def _exceeded_counter(db: sqlite3.Connection, hold: Hold) -> Counter | None:
    for counter in hold.counters:
        if counter.limit is not None and _value(db, counter) + hold.amount > counter.limit:
            return counter
    return None


def _insert_hold(db: sqlite3.Connection, hold: Hold) -> None:
    values = (hold.id, hold.owner, hold.at, hold.day, hold.amount, hold.key, hold.model, hold.endpoint)
    db.execute("INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    _add_to_counters(db, hold.counters, hold.amount)


def _settle(db: sqlite3.Connection, charge: Charge) -> None:
    if charge.once is not None:
        sql = "INSERT INTO counters (name, value, expires_at) VALUES (?, 1, ?) ON CONFLICT (name) DO NOTHING"
        if not db.execute(sql, (f"charged/{charge.once}", time.time() + ONCE)).rowcount:
            return
    row = db.execute("DELETE FROM holds WHERE id = ? RETURNING amount", (charge.hold,)).fetchone()
    # A hold that the store refused or never got is not on the counters, so all of the amount is new.
    _add_to_counters(db, charge.counters, charge.amount - (row[0] if row else 0))
    _add_usage(db, charge.usage)


def _add_to_counters(db: sqlite3.Connection, counters: Sequence[Counter], amount: int) -> None:
    if amount:
        db.executemany(_ADD_COUNTER, [(counter.name, amount, counter.expires_at) for counter in counters])


def _outcome_values(outcome: Outcome) -> tuple[float, str, bytes]:
    return outcome.at, outcome.trace, encode(outcome)


def _add_usage(db: sqlite3.Connection, row: UsageRow) -> None:
    if any(getattr(row, name) for name in USAGE_SUMS):
        db.execute(_ADD_USAGE, _usage_values(row))
