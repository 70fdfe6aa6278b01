"""Short transactions in the event loop's thread: as durable as the writer's, and nothing waits for them."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from routing.state.records import Record, StorageFull
from routing.state.sqlite import SqliteState
from routing.state.sqlite_direct import DECLINED, MOST, REST, SLOW, DirectTransactions, time_of_change

ROOT = Path(__file__).parents[3]


def record(name: str, **body: object) -> Record:
    return Record("thing", name, dict(body), owner="alice")


async def written(state: SqliteState) -> None:
    """Let the writer commit a change."""
    state.put("kind", "name", {"at": time.time()})
    await state.flush()


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[SqliteState]:
    """A state whose writer has written something, so that transactions may be direct."""
    made = SqliteState(tmp_path / "state.sqlite3")
    await made.start()
    await written(made)
    yield made
    await made.close()


@contextmanager
def left_to_the_writer(state: SqliteState, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The jobs that the writer's thread gets meanwhile."""
    left: list[Any] = []
    request = state._writer.request

    def noted(apply: Callable[[sqlite3.Connection], Any], **how: bool) -> asyncio.Future[Any]:
        left.append(apply)
        return request(apply, **how)

    with monkeypatch.context() as patch:
        patch.setattr(state._writer, "request", noted)
        yield left


def nothing(_: sqlite3.Connection) -> str:
    return "done"


def insert(name: str, db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO documents VALUES ('kind', ?, '{}', NULL)", (name,))


async def test_a_few_records_are_stored_without_the_writers_thread(
    state: SqliteState, monkeypatch: pytest.MonkeyPatch
) -> None:
    with left_to_the_writer(state, monkeypatch) as left:
        await state.records.add([record("a", x=1), record("b")], room=10_000)
        assert left == []
    found = await state.records.get("thing", "a", "alice")
    assert found is not None
    assert found.body == {"x": 1}
    assert await state.records.used("alice") > 0


async def test_many_large_and_crowding_records_are_the_writers(
    state: SqliteState, monkeypatch: pytest.MonkeyPatch
) -> None:
    with left_to_the_writer(state, monkeypatch) as left:
        await state.records.add([record(f"many {n}") for n in range(9)])
        await state.records.add([record("large", x="y" * 70_000)])
        with pytest.raises(StorageFull):
            await state.records.add([record("crowding", x="y" * 1000)], room=1000)
        assert len(left) == 3
    assert await state.records.get("thing", "crowding") is None


async def test_while_another_process_writes_the_event_loop_is_not_held_up(
    state: SqliteState, tmp_path: Path
) -> None:
    lock = sqlite3.connect(tmp_path / "state.sqlite3", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    assert state._writer.at_once(nothing) is DECLINED
    adding = asyncio.create_task(state.records.add([record("a")]))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not adding.done()
    lock.execute("COMMIT")
    lock.close()
    await adding
    assert await state.records.get("thing", "a") is not None


async def test_after_a_checkpoint_the_writer_begins_the_file_anew(state: SqliteState, tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite3"
    wal = file.with_name(f"{file.name}-wal")
    other = sqlite3.connect(file, isolation_level=None)
    busy, frames, moved = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert (busy, frames == moved > 0) == (0, True)
    head = wal.read_bytes()[:32]
    assert state._writer.at_once(nothing) is DECLINED
    await written(state)
    begun = wal.read_bytes()[:32]
    assert begun != head, "the writer has begun it anew"
    for number in range(20):
        assert state._writer.at_once(partial(insert, str(number))) is None
    assert wal.read_bytes()[:32] == begun
    other.close()


async def test_the_writer_gets_its_turn_to_make_checkpoints(state: SqliteState) -> None:
    for _ in range(MOST):
        assert state._writer.at_once(nothing) == "done"
    assert state._writer.at_once(nothing) is DECLINED
    await written(state)
    assert state._writer.at_once(nothing) == "done"


def test_a_disk_that_keeps_a_write_waiting_does_so_once(tmp_path: Path) -> None:
    file, now = tmp_path / "file", [0.0]
    made = sqlite3.connect(file)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("CREATE TABLE t (x)")
    direct = DirectTransactions(file, lambda: now[0])
    direct.open()
    direct.written(time_of_change(file), time_of_change(file))

    def slow(_: sqlite3.Connection) -> str:
        now[0] += SLOW + 0.001
        return "slow"

    assert direct.run(slow) == "slow"
    assert direct.run(nothing) is DECLINED
    now[0] += REST
    assert direct.run(nothing) == "done"
    direct.close()
    assert direct.run(nothing) is DECLINED
    made.close()


def test_without_a_wal_file_every_job_is_declined(tmp_path: Path) -> None:
    file = tmp_path / "file"
    made = sqlite3.connect(file)
    made.execute("CREATE TABLE t (x)")
    direct = DirectTransactions(file)
    direct.open()
    direct.written(time_of_change(file), time_of_change(file))
    assert direct.run(nothing) is DECLINED
    made.close()


async def test_a_file_that_is_gone_is_not_written(state: SqliteState, tmp_path: Path) -> None:
    (tmp_path / "state.sqlite3").rename(tmp_path / "elsewhere")
    assert state._writer.at_once(nothing) is DECLINED
    (tmp_path / "elsewhere").rename(tmp_path / "state.sqlite3")


async def test_wrong_data_is_the_callers_and_changes_nothing(state: SqliteState) -> None:
    def wrong(db: sqlite3.Connection) -> None:
        insert("first", db)
        insert("first", db)

    with pytest.raises(sqlite3.IntegrityError):
        state._writer.at_once(wrong)
    assert await state.document("kind", "first") is None
    assert state._writer.at_once(nothing) == "done"


async def test_a_file_that_was_set_aside_is_not_written_any_more(state: SqliteState, tmp_path: Path) -> None:
    writer = state._writer
    await asyncio.to_thread(writer._set_aside, sqlite3.DatabaseError("damaged"))
    assert writer.at_once(nothing) is DECLINED
    await state.records.add([record("a")])
    await written(state)
    assert writer.at_once(partial(insert, "b")) is None
    new = sqlite3.connect(tmp_path / "state.sqlite3")
    assert new.execute("SELECT count(*) FROM documents WHERE name = 'b'").fetchone() == (1,)
    new.close()


async def main(path: Path) -> None:
    """Store records for ever, and print the id of each once it is stored."""
    state = SqliteState(path)
    await state.start()
    number = 0
    while True:
        await written(state)
        for _ in range(20):
            number += 1
            await state.records.add([record(f"{number}", text="x" * 300)])
            print(number, flush=True)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_what_was_told_to_be_stored_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    command = [sys.executable, "-m", "tests.routing.state.test_sqlite_direct", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(150)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout if line.endswith("\n")]
    db = sqlite3.connect(path)
    stored = {int(name) for (name,) in db.execute("SELECT id FROM records WHERE kind = 'thing'")}
    db.close()
    assert set(told) <= stored


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
