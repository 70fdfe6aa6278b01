"""Rows written to SQLite in batches."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from structlog.testing import capture_logs

from routing.state.protocol import (
    Charge,
    UsageRow,
)
from routing.state.row_batches import RowBatcher
from routing.state.sqlite import SqliteState
from routing.state.sqlite_writer import SqliteWriter
from tests.routing.state.stores import until


def uncapped(**usage: int) -> Charge:
    return Charge(None, (), 0, UsageRow("2027-01-15", "m", "e", "a", calls=1, **usage))


async def test_rows_added_together_are_one_job_and_only_an_invalid_one_is_left_out(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    with capture_logs() as logs:
        settled = [state.charge(uncapped(input=tokens)) for tokens in (1, 2**70, 4)]
        assert len(set(settled)) == 1
        await settled[0]
    assert [entry["event"] for entry in logs] == ["state.job_failed"]
    later = state.charge(uncapped(input=8))
    assert later is not settled[0]
    await later
    [row] = await state.usage("0000", "9999")
    assert (row.calls, row.input) == (3, 13)
    await state.close()


async def test_rows_that_wait_for_a_lock_are_written_once(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    state = SqliteState(path)
    await state.start()
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with capture_logs() as logs:
        first = state.charge(uncapped())
        await until(lambda: logs)
        late = state.charge(uncapped())
        locker.execute("COMMIT")
        locker.close()
        await asyncio.wait_for(asyncio.gather(first, late), 30)
    [row] = await state.usage("0000", "9999")
    assert row.calls == 2
    await state.close()


async def test_outcomes_beyond_the_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    writer = SqliteWriter(path, "CREATE TABLE IF NOT EXISTS seen (number INTEGER)", version=1)
    rows = RowBatcher[int](writer, "INSERT INTO seen VALUES (?)", lambda number: (number,), max_rows=2)
    await writer.start()
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with capture_logs() as logs:
        added = [rows.add(number) for number in range(3)]
        assert added[2] is None
        await until(lambda: logs)
        locker.execute("COMMIT")
        assert added[0] is not None
        await asyncio.wait_for(added[0], 30)
    assert logs[-1]["outcomes_dropped"] == 1
    assert locker.execute("SELECT number FROM seen").fetchall() == [(0,), (1,)]
    locker.close()
    await writer.stop()
