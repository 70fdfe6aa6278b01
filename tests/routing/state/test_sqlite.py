"""The state in SQLite when the file is damaged, locked or full."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from catalog.errors import ConfigurationError
from routing.facts import Facts
from routing.state.protocol import (
    OutcomeQuery,
)
from routing.state.sqlite import SqliteState
from routing.state.sqlite_writer import SqliteWriter
from tests.routing.outcome_factory import outcome
from tests.routing.state.stores import DAY, charge, hold, until


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def set_aside(folder: Path) -> list[Path]:
    return list(folder.glob("*.damaged-*"))


def not_a_database(_: bytes) -> bytes:
    return b"not a database at all" * 100


def torn_pages(whole: bytes) -> bytes:
    return whole[:4096] + b"\xff" * (len(whole) - 8192) + whole[-4096:]


@pytest.mark.parametrize("damage", [not_a_database, torn_pages])
async def test_a_damaged_file_is_set_aside_with_a_warning_and_replaced(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "s.sqlite"
    first = SqliteState(path)
    await first.start()
    for number in range(500):
        first.put("pin", f"alias{number}", {"model": "a" * 100})
    await first.close()
    rewrite(path, damage)

    again = SqliteState(path)
    with capture_logs() as logs:
        await again.start()
    assert [entry["event"] for entry in logs] == ["state.set_aside"]
    assert await again.documents("pin") == {}
    again.put("pin", "auto", {"model": "b"})
    assert await again.documents("pin") == {"auto": {"model": "b"}}
    await again.close()
    assert len(set_aside(tmp_path)) == 1


async def test_a_file_of_a_newer_layout_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as newer:
        newer.execute("CREATE TABLE money (amount INTEGER)")
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"newer Roundhouse.*layout is 99"):
        await SqliteState(path).start()
    assert path.read_bytes() == before
    assert names(tmp_path) == {"s.sqlite"}


UPGRADES = {
    1: ("ALTER TABLE money ADD COLUMN currency TEXT NOT NULL DEFAULT 'USD'",),
    2: ("ALTER TABLE money RENAME TO amounts", "UPDATE amounts SET amount = amount * 100"),
}


def of_layout_one(path: Path) -> None:
    with sqlite3.connect(path) as older:
        older.execute("PRAGMA journal_mode = WAL")
        older.execute("CREATE TABLE money (amount INTEGER)")
        older.execute("INSERT INTO money VALUES (5)")
        older.execute("PRAGMA user_version = 1")
    older.close()


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


async def test_an_older_layout_is_brought_up_to_date_and_a_copy_of_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    of_layout_one(path)
    for _ in range(2):
        writer = SqliteWriter(path, "", version=3, upgrades=UPGRADES)
        await writer.start()
        await writer.stop()
        assert rows(path, "amounts") == [(500, "USD")]
        assert rows(tmp_path / "s.sqlite.layout-1", "money") == [(5,)]
    assert names(tmp_path) == {"s.sqlite", "s.sqlite.layout-1"}


async def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    of_layout_one(path)
    writer = SqliteWriter(
        path, "", version=3, upgrades={**UPGRADES, 2: ("ALTER TABLE nowhere RENAME TO amounts",)}
    )
    with pytest.raises(sqlite3.Error):
        await writer.start()
    assert rows(path, "money") == [(5,)]


async def test_two_processes_that_find_an_older_layout_upgrade_it_once(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    of_layout_one(path)
    writers = [SqliteWriter(path, "", version=3, upgrades=UPGRADES) for _ in range(4)]
    await asyncio.gather(*(writer.start() for writer in writers))
    for writer in writers:
        await writer.stop()
    assert rows(path, "amounts") == [(500, "USD")]


async def test_while_the_file_is_locked_a_hold_waits_briefly_and_nothing_is_lost(
    tmp_path: Path, failures: list[BaseException]
) -> None:
    path = tmp_path / "s.sqlite"
    state = SqliteState(path)
    await state.start()
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    taken = hold(1, 60)
    with capture_logs() as logs:
        assert await state.hold(taken, 0.05) is None
        settled = state.charge(charge(taken, 25))
        for _ in range(3):
            state.add_outcome(outcome())
        await until(lambda: len(failures) >= 2)
        assert not settled.done()
        locker.execute("COMMIT")
        locker.close()
        await asyncio.wait_for(settled, 30)
    assert [entry["event"] for entry in logs] == ["state.not_written", "state.written_again"]
    assert (await state.counts("spend/"))[DAY.name] == 25
    assert len(await state.outcomes(OutcomeQuery())) == 3
    await state.close()


async def test_a_full_disk_is_logged_once_and_charges_are_written_when_there_is_room(
    tmp_path: Path, failures: list[BaseException]
) -> None:
    path = tmp_path / "s.sqlite"
    state = SqliteState(path)
    await state.start()
    await state.flush()
    # A page limit is how SQLite itself says "disk full" (SQLITE_FULL) without a disk to fill.
    pages = "PRAGMA max_page_count = "
    await state._writer.request(lambda db: db.execute(pages + str(db.execute("PRAGMA page_count").fetchone()[0])))
    with capture_logs() as logs:
        state.put("big", "document", "x" * 200_000)
        settled = state.charge(charge(None, 25))
        await until(lambda: len(failures) >= 2)
        assert not settled.done()
        assert state._writer._connection is not None
        state._writer._connection.execute(pages + "1000000")
        await asyncio.wait_for(settled, 30)
    assert [entry["event"] for entry in logs] == ["state.not_written", "state.written_again"]
    assert (await state.counts("spend/"))[DAY.name] == 25
    await state.close()


async def test_a_write_that_is_given_up_is_no_recovery(tmp_path: Path, failures: list[BaseException]) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    pages, fill = "PRAGMA max_page_count = ", "PRAGMA page_count"
    await state._writer.request(lambda db: db.execute(pages + str(db.execute(fill).fetchone()[0])))
    given_up = False
    with capture_logs() as logs:
        big = state._writer.request(
            lambda db: (
                None if given_up else db.execute("REPLACE INTO documents VALUES ('a', 'b', zeroblob(99999), 0)")
            )
        )
        await until(lambda: len(failures) >= 1)
        given_up = True
        await until(lambda: len(failures) >= 4)
        assert [entry["event"] for entry in logs] == ["state.not_written"]
        assert state.lag > 0
        assert state._writer._connection is not None
        state._writer._connection.execute(pages + "1000000")
        await asyncio.wait_for(big, 30)
    assert [entry["event"] for entry in logs] == ["state.not_written", "state.written_again"]
    await state.close()


@pytest.mark.parametrize("trouble", ["locked", "full"])
async def test_reads_go_around_writes_that_cannot_be_made(
    tmp_path: Path, failures: list[BaseException], trouble: str
) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    await state.charge(charge(None, 25))
    locker = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    if trouble == "locked":
        locker.execute("BEGIN IMMEDIATE")
    else:
        pages = "PRAGMA max_page_count = "
        fill = "PRAGMA page_count"
        await state._writer.request(lambda db: db.execute(pages + str(db.execute(fill).fetchone()[0])))
    state.put("big", "document", "x" * 200_000)
    await until(lambda: len(failures) >= 1)
    assert (await asyncio.wait_for(state.counts("spend/"), 5))[DAY.name] == 25
    assert len(await asyncio.wait_for(state.usage("2000-01-01", "2100-01-01"), 5)) == 1
    assert await asyncio.wait_for(state.document("big", "document"), 5) is None
    locker.close()
    if trouble == "full":
        assert state._writer._connection is not None
        state._writer._connection.execute(pages + "1000000")
    await asyncio.wait_for(state.flush(), 30)
    assert await state.document("big", "document") == "x" * 200_000
    await state.close()


async def test_what_is_lost_at_the_end_is_logged_once_and_not_per_write(
    tmp_path: Path, failures: list[BaseException]
) -> None:
    unretrieved: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unretrieved.append(context))
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    with contextlib.closing(sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        state.charge(charge(None, 25))
        await until(lambda: len(failures) >= 1)
        with capture_logs() as logs:
            await state._writer.stop(timeout=0)
    await asyncio.sleep(0)
    gc.collect()
    assert [entry["event"] for entry in logs] == ["state.lost"]
    assert unretrieved == []


async def test_a_file_damaged_while_it_is_open_is_replaced_and_the_batch_is_kept(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    broken = [True]

    def break_once(_: sqlite3.Connection) -> str:
        if broken.pop() if broken else False:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        return "done"

    with capture_logs() as logs:
        settled = state.charge(charge(None, 25))
        assert await state._writer.request(break_once) == "done"
        await settled
    assert [entry["event"] for entry in logs] == ["state.set_aside"]
    assert state.generation == 1
    await state.close()


async def test_a_job_with_invalid_data_does_not_fail_its_batch(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()

    def wrong(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO counters VALUES ('half', 1, NULL)")
        raise ValueError("invalid")

    state.count((DAY,), 1)
    bad = state._writer.request(wrong)
    state.count((DAY,), 1)
    with pytest.raises(ValueError, match="invalid"):
        await bad
    assert await state.counts("spend/") == {DAY.name: 2}
    assert await state.counts("half") == {}
    await state.close()


async def test_a_file_that_cannot_be_created_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await SqliteState(tmp_path / "file" / "s.sqlite").start()


async def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s.sqlite"
    state = SqliteState(path)
    await state.start()
    assert path.stat().st_mode & 0o077 == 0
    await state.close()


async def test_after_closing_a_request_fails_instead_of_waiting(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    await state.close()
    with pytest.raises(ConnectionError):
        await state.flush()


async def test_an_outcome_is_stored_with_its_facts_and_without_a_prompt(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    state.add_outcome(outcome())
    [stored] = await state.outcomes(OutcomeQuery())
    assert set(stored["facts"]) == set(Facts.__slots__)
    await state.close()
