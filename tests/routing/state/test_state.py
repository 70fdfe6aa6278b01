"""What every home of the state promises; then what each does in trouble."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from catalog.errors import ConfigurationError
from routing.facts import Facts
from routing.outcomes import Result, Usage
from routing.state.protocol import Charge, Counter, Hold, OutcomeQuery, State, UsageRow, is_gone, this_process
from routing.state.redis import RedisState
from routing.state.row_batches import Gathered
from routing.state.sqlite import SqliteState
from routing.state.sqlite_writer import SqliteWriter
from tests.routing.outcome_factory import outcome

NOW = 1_800_000_000.0
LATER = 4_000_000_000.0
DAY = Counter("spend/all/day/2027-01-15", limit=100, expires_at=LATER)
TOTAL = Counter("spend/all/total/ever", limit=1000)
OPEN = Counter("spend/key/a/day/2027-01-15", limit=None, expires_at=LATER)

Opener = Callable[[], Awaitable[State]]

HOMES = [
    "sqlite",
    pytest.param(
        "redis",
        marks=pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
    ),
]


@asynccontextmanager
async def redis_server(socket: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Redis of our own on a Unix socket, keeping nothing."""
    server = await asyncio.create_subprocess_exec(
        *("redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(10):
            while b"eady to accept connections" not in (line := await server.stdout.readline()):
                assert line, "redis-server ended"
        yield server
    finally:
        server.terminate()
        await server.communicate()


@pytest.fixture(params=HOMES)
async def opener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens the same store again and again; everything is closed at the end."""
    async with AsyncExitStack() as stack:
        socket = tmp_path / "redis.sock"
        if request.param == "redis":
            await stack.enter_async_context(redis_server(socket))

        async def open_state() -> State:
            home: State = (
                RedisState(f"unix://{socket}") if request.param == "redis" else SqliteState(tmp_path / "s.sqlite")
            )
            await home.start()
            stack.push_async_callback(home.close)
            return home

        yield open_state


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fails after half a minute."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """The errors of the attempts to write so far."""
    seen: list[BaseException] = []
    for kind, name in ((SqliteWriter, "_recover"), (RedisState, "_trouble")):
        original = getattr(kind, name)

        def failed(home: object, error: BaseException, original: Callable[..., None] = original) -> None:
            seen.append(error)
            original(home, error)

        monkeypatch.setattr(kind, name, failed)
    return seen


def hold(
    number: int, amount: int, *, owner: str = "me", counters: tuple[Counter, ...] = (DAY, TOTAL, OPEN)
) -> Hold:
    return Hold(
        id=f"{owner}/{number}",
        owner=owner,
        at=NOW,
        day="2027-01-15",
        amount=amount,
        counters=counters,
        key="a",
        model="m",
        endpoint="e",
    )


def charge(taken: Hold | None, amount: int, **usage: int) -> Charge:
    row = UsageRow("2027-01-15", "m", "e", "a", calls=1, cost=amount, **usage)
    return Charge(taken.id if taken else None, (DAY, TOTAL, OPEN), amount, row)


async def test_documents_are_put_replaced_deleted_and_outlive_the_process(opener: Opener) -> None:
    state = await opener()
    state.put("pin", "auto", {"model": "a"})
    state.put("pin", "auto", {"model": "b"})
    state.put("pin", "old", {"model": "c"}, expires_at=1.0)
    state.put("pin", "gone", {})
    state.put("pin", "gone", None)
    state.put("other", "auto", [1])
    await state.flush()
    again = await opener()
    assert await again.documents("pin") == {"auto": {"model": "b"}}
    assert await again.documents("nothing") == {}
    assert await again.document("pin", "auto") == {"model": "b"}
    assert [await again.document("pin", name) for name in ("old", "gone", "never")] == [None] * 3


async def test_counters_add_up_across_gateways(opener: Opener) -> None:
    states = [await opener(), await opener()]
    for state in states:
        for _ in range(50):
            state.count((OPEN, Counter("rate/x")), 2)
        await state.flush()
    assert await states[0].counts("spend/") == {OPEN.name: 200}
    assert await states[0].counts("rate/x") == {"rate/x": 200}


async def test_a_hold_is_taken_whole_or_not_at_all(opener: Opener) -> None:
    state = await opener()
    assert await state.hold(hold(1, 60), 5) is None
    assert await state.hold(hold(2, 41), 5) == DAY
    assert await state.counts("spend/") == {DAY.name: 60, TOTAL.name: 60, OPEN.name: 60}
    assert await state.hold(hold(3, 40), 5) is None


async def test_concurrent_holds_of_two_gateways_never_pass_the_limit(opener: Opener) -> None:
    states = [await opener(), await opener()]
    refusals = await asyncio.gather(
        *(states[n % 2].hold(hold(n, 3, owner=f"gateway{n % 2}"), 10) for n in range(200))
    )
    assert refusals.count(None) == 33
    assert (await states[0].counts("spend/"))[DAY.name] == 99


async def test_a_charge_replaces_its_hold_and_adds_to_the_usage(opener: Opener) -> None:
    state = await opener()
    taken = hold(1, 60)
    await state.hold(taken, 5)
    await state.charge(charge(taken, 25, input=7))
    await state.charge(charge(None, 5, input=1))
    assert (await state.counts("spend/"))[DAY.name] == 30
    row = UsageRow("2027-01-15", "m", "e", "a", calls=2, cost=30, input=8)
    assert await (await opener()).usage("2027-01-01", "2027-01-31") == [row]
    assert await state.usage("2027-01-16", "2027-01-31") == []


async def test_a_charge_for_a_hold_that_the_store_refused_counts_in_full(opener: Opener) -> None:
    state = await opener()
    taken = hold(1, 101)
    assert await state.hold(taken, 5) == DAY
    await state.charge(charge(taken, 10))
    assert (await state.counts("spend/"))[DAY.name] == 10


async def test_holds_of_the_dead_become_estimated_usage_and_stay_counted(opener: Opener) -> None:
    state = await opener()
    await state.hold(hold(1, 30, owner="dead"), 5)
    await state.hold(hold(2, 20, owner="alive"), 5)
    again = await opener()
    assert await again.recover(lambda owner, at: owner == "dead" and at == NOW) == 1
    assert await again.recover(lambda owner, _: owner == "dead") == 0
    [row] = await again.usage("0", "9")
    assert (row.calls, row.unknown, row.cost, row.estimated) == (1, 1, 0, 30)
    assert (await again.counts("spend/"))[DAY.name] == 50


async def test_outcomes_are_read_newest_first_by_time_or_trace(opener: Opener) -> None:
    state = await opener()
    for number in range(5):
        state.remember(outcome(Result.SUCCESS, trace=f"t{number % 2}", at=NOW + number, usage=Usage(input=number)))
    found = await state.outcomes(OutcomeQuery(since=NOW + 1, until=NOW + 4))
    assert [one["at"] - NOW for one in found] == [3, 2, 1]
    assert [one["usage"]["input"] for one in await state.outcomes(OutcomeQuery(trace="t1"))] == [3, 1]
    assert len(await state.outcomes(OutcomeQuery(limit=2))) == 2


async def test_what_is_old_is_pruned(opener: Opener) -> None:
    state = await opener()
    state.remember(outcome(at=NOW))
    state.remember(outcome(at=NOW + 10))
    state.put("trace", "new", {}, expires_at=LATER)
    state.put("trace", "kept", {})
    await state.prune(outcomes_before=NOW + 5, now=NOW)
    assert [one["at"] for one in await state.outcomes(OutcomeQuery())] == [NOW + 10]
    assert set(await state.documents("trace")) == {"new", "kept"}


def test_a_process_of_this_host_is_known_to_be_gone() -> None:
    me = this_process()
    host, _, _ = me.split("/")
    assert not is_gone(me, NOW, now=NOW + 10**6)
    assert is_gone(f"{host}/{2**22 + 1}/1.00", NOW, now=NOW)
    assert is_gone(f"{host}/{me.split('/')[1]}/12345.00", NOW, now=NOW)
    assert not is_gone("elsewhere/1/1.00", NOW, now=NOW + 60)
    assert is_gone("elsewhere/1/1.00", NOW, now=NOW + 3601)


# ---- SQLite in trouble


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def set_aside(folder: Path) -> list[Path]:
    return list(folder.glob("*.damaged-*"))


def not_a_database(_: bytes) -> bytes:
    return b"not a database at all" * 100


def torn_pages(whole: bytes) -> bytes:
    return whole[:4096] + b"\xff" * (len(whole) - 8192) + whole[-4096:]


@pytest.mark.parametrize("damage", [not_a_database, torn_pages])
async def test_a_damaged_file_is_set_aside_with_a_warning_and_a_fresh_one_begun(
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


async def test_a_file_of_another_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    state = SqliteState(path)
    with capture_logs() as logs:
        await state.start()
    assert [entry["event"] for entry in logs] == ["state.set_aside"]
    assert state.generation == 1
    await state.close()


async def test_while_the_file_is_locked_nobody_waits_long_and_nothing_is_lost(
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
            state.remember(outcome())
        await until(lambda: len(failures) >= 2)
        assert not settled.done()
        locker.execute("COMMIT")
        locker.close()
        await asyncio.wait_for(settled, 30)
    assert [entry["event"] for entry in logs] == ["state.not_written", "state.written_again"]
    assert (await state.counts("spend/"))[DAY.name] == 25
    assert len(await state.outcomes(OutcomeQuery())) == 3
    await state.close()


async def test_a_full_disk_is_logged_once_and_what_was_settled_is_written_when_there_is_room(
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


async def test_a_file_that_breaks_while_it_is_open_is_replaced_and_the_batch_is_kept(tmp_path: Path) -> None:
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


async def test_one_bad_job_does_not_take_its_batch_along(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()

    def wrong(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO counters VALUES ('half', 1, NULL)")
        raise ValueError("wrong in itself")

    state.count((DAY,), 1)
    bad = state._writer.request(wrong)
    state.count((DAY,), 1)
    with pytest.raises(ValueError, match="wrong in itself"):
        await bad
    assert await state.counts("spend/") == {DAY.name: 2}
    assert await state.counts("half") == {}
    await state.close()


async def test_no_place_for_the_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await SqliteState(tmp_path / "file" / "s.sqlite").start()


async def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s.sqlite"
    state = SqliteState(path)
    await state.start()
    assert path.stat().st_mode & 0o077 == 0
    await state.close()


async def test_after_closing_nobody_waits_for_ever(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    await state.close()
    with pytest.raises(ConnectionError):
        await state.flush()


async def test_an_outcome_is_stored_with_its_facts_and_without_a_prompt(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    state.remember(outcome())
    [stored] = await state.outcomes(OutcomeQuery())
    assert set(stored["facts"]) == set(Facts.__slots__)
    await state.close()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
async def test_while_redis_does_not_answer_nobody_waits_long_and_nothing_is_lost(
    tmp_path: Path, failures: list[BaseException]
) -> None:
    async with redis_server(tmp_path / "redis.sock") as server:
        state = RedisState(f"unix://{tmp_path}/redis.sock")
        await state.start()
        taken = hold(1, 60)
        server.send_signal(signal.SIGSTOP)
        with capture_logs() as logs:
            assert await state.hold(taken, 0.05) is None
            settled = state.charge(charge(taken, 25))
            await until(lambda: len(failures) >= 2)
            assert not settled.done()
            server.send_signal(signal.SIGCONT)
            await asyncio.wait_for(settled, 30)
        assert [entry["event"] for entry in logs] == ["state.not_written", "state.written_again"]
        assert (await state.counts("spend/"))[DAY.name] == 25
        await state.close()


async def test_no_redis_is_one_clear_error_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await RedisState(f"unix://:hunter2@{tmp_path}/none.sock").start()
    assert "hunter2" not in str(refused.value)


def uncapped(**usage: int) -> Charge:
    return Charge(None, (), 0, UsageRow("2027-01-15", "m", "e", "a", calls=1, **usage))


async def test_rows_that_come_together_are_one_job_and_an_unfit_one_is_left_out_alone(tmp_path: Path) -> None:
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
    rows = Gathered[int](writer, "INSERT INTO seen VALUES (?)", lambda number: (number,), most=2)
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
