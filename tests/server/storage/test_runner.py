"""Work goes on after its request, in one process at a time, and after the death of that process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from catalog.errors import InvalidRequest, Unavailable
from routing.clock import SystemClock
from routing.state.records import Record, RecordQuery, Records
from routing.state.sqlite import SqliteState
from server.storage import runner as module
from server.storage.runner import CANCELLING, Runner
from server.storage.slots import Slot


class Sums:
    """Work that stores one end; it waits for ``go`` first."""

    kind = "sum"
    unfinished = ("queued", "running")

    def __init__(self, records: Records, *, at_once: int = 10, keeps_slot: bool = False) -> None:
        self.records = records
        self.at_once = at_once
        self.keeps_slot = keeps_slot
        self.go = asyncio.Event()
        self.began: list[str] = []
        self.fails: BaseException | None = None

    async def run(self, record: Record, slot: Slot) -> None:
        self.began.append(record.id)
        started = await self.records.replace(record.changed(status="running"))
        assert started is not None
        await self.go.wait()
        if self.fails is not None:
            raise self.fails
        await self.records.replace(started.changed(status="done", runs=record.body.get("runs", 0) + 1))

    async def end(self, record: Record, error: BaseException | None) -> None:
        status = "cancelled" if error is None else "failed"
        await self.records.replace(record.changed(status=status, error=str(error)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.02)


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    yield state.records
    await state.close()


@pytest.fixture
async def run(records: Records) -> AsyncIterator[Callable[..., Runner]]:
    running: list[Runner] = []

    def start(work: Sums, holder: str = "here") -> Runner:
        running.append(Runner(records, SystemClock(), [work], holder=holder))
        running[-1].start()
        return running[-1]

    yield start
    for runner in running:
        await runner.stop()


async def ended(records: Records, name: str, status: str) -> Record:
    async with asyncio.timeout(20):
        while True:
            found = await records.get("sum", name)
            if found is not None and found.status == status:
                return found
            await asyncio.sleep(0.01)


async def looked(records: Records, times: int = 3) -> None:
    """Wait until a runner has looked for work this many times more."""
    seen = asyncio.Semaphore(0)
    find = records.find

    async def finding(query: RecordQuery) -> list[Record]:
        if query.status == CANCELLING:
            seen.release()  # each look begins with what is cancelled
        return await find(query)

    records.find = finding  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        for _ in range(times):
            await seen.acquire()


def queued(name: str) -> Record:
    return Record("sum", name, {}, status="queued")


Start = Callable[..., Runner]


async def test_work_that_a_record_asks_for_is_done(records: Records, run: Start) -> None:
    work = Sums(records)
    work.go.set()
    runner = run(work)
    await records.add([queued("found")])
    await ended(records, "found", "done")
    await records.add([queued("begun")])
    await runner.begin(queued("begun"))
    await ended(records, "begun", "done")
    assert work.began == ["found", "begun"]


async def test_two_processes_do_the_same_work_once(records: Records, run: Start) -> None:
    one, two = Sums(records), Sums(records)
    run(one, "one")
    run(two, "two")
    names = [f"w{n}" for n in range(8)]
    await records.add([queued(name) for name in names])
    one.go.set()
    two.go.set()
    for name in names:
        assert (await ended(records, name, "done")).body["runs"] == 1
    assert sorted(one.began + two.began) == names


async def test_no_more_is_done_at_once_than_the_bound(records: Records, run: Start) -> None:
    work = Sums(records, at_once=2)
    run(work)
    await records.add([queued(f"w{n}") for n in range(5)])
    await ended(records, "w1", "running")
    await looked(records)
    assert len(work.began) == 2
    work.go.set()
    for n in range(5):
        await ended(records, f"w{n}", "done")


async def test_one_keys_work_that_does_not_rest_leaves_slots_for_other_keys(records: Records, run: Start) -> None:
    work = Sums(records, at_once=8, keeps_slot=True)
    run(work)
    await records.add([replace(queued(f"a{n}"), owner="key-a") for n in range(20)])
    await ended(records, "a0", "running")
    await looked(records)
    assert len(work.began) == 6, "three quarters"
    for other in ("key-b", "key-c"):
        await records.add([replace(queued(f"{other}{n}"), owner=other) for n in range(5)])
        await ended(records, f"{other}0", "running")
    await looked(records)
    assert len(work.began) == 8
    work.go.set()
    for n in range(20):
        await ended(records, f"a{n}", "done")


async def test_work_of_a_server_without_keys_may_have_every_slot(records: Records, run: Start) -> None:
    work = Sums(records, at_once=8, keeps_slot=True)
    run(work)
    await records.add([replace(queued(f"w{n}"), owner="anonymous") for n in range(20)])
    await ended(records, "w7", "running")
    await looked(records)
    assert len(work.began) == 8


async def test_the_work_of_a_process_that_died_is_done_by_another(records: Records, run: Start) -> None:
    await records.add([queued("w")])
    assert await records.hold("sum", "w", "dead", time.time() + 0.3)
    work = Sums(records)
    work.go.set()
    run(work)
    assert (await ended(records, "w", "done")).body["runs"] == 1


async def test_work_that_a_stop_interrupts_goes_on_elsewhere_at_once(records: Records, run: Start) -> None:
    await records.add([queued("w")])
    first = Sums(records)
    runner = run(first, "first")
    await ended(records, "w", "running")
    await runner.stop()
    second = Sums(records)
    second.go.set()
    run(second, "second")
    await ended(records, "w", "done")


@pytest.mark.parametrize("place", ["here", "elsewhere", "nowhere"])
async def test_cancelled_work_ends(records: Records, run: Start, place: str) -> None:
    await records.add([queued("w")])
    work = Sums(records)
    runner = run(work)
    running = await ended(records, "w", "running") if place != "nowhere" else queued("w")
    if place == "nowhere":
        await runner.stop()
        stored = await records.get("sum", "w")
        assert stored is not None
        running = stored
    changed = await records.replace(running.changed(status=CANCELLING))
    assert changed is not None
    if place == "here":
        await runner.cancel(changed)
        assert not runner.is_running("sum", "w")
    if place == "nowhere":
        run(Sums(records), "after a restart")
    assert (await ended(records, "w", "cancelled")).body["error"] == "None"


async def test_an_error_is_the_end_of_the_work(records: Records, run: Start) -> None:
    work = Sums(records)
    work.fails = InvalidRequest("It cannot be done.")
    work.go.set()
    run(work)
    await records.add([queued("w")])
    assert (await ended(records, "w", "failed")).body["error"] == "It cannot be done."
    await looked(records)
    assert work.began == ["w"]


async def test_work_that_was_done_since_it_was_found_is_not_done_again(records: Records, run: Start) -> None:
    work = Sums(records)
    runner = run(work)
    await records.add([replace(queued("w"), status="done")])
    await runner.begin(queued("w"))
    async with asyncio.timeout(20):
        while runner.is_running("sum", "w"):
            await asyncio.sleep(0.01)
    assert work.began == []


async def test_a_store_that_fails_is_one_line_in_the_log_and_its_return_another(
    records: Records, run: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = asyncio.Semaphore(0)
    find = records.find

    async def full(query: RecordQuery) -> list[Record]:
        looks.release()
        raise Unavailable("The disk is full.")

    async def look(times: int) -> None:
        async with asyncio.timeout(20):
            for _ in range(times):
                await looks.acquire()

    with capture_logs() as logs:
        monkeypatch.setattr(records, "find", full)
        run(Sums(records))
        await look(4)
        monkeypatch.setattr(records, "find", find)
        await looked(records, 2)
        monkeypatch.setattr(records, "find", full)
        await look(3)
    assert [line["event"] for line in logs] == ["work.not_found", "work.found_again", "work.not_found"]


async def test_work_whose_end_cannot_be_stored_is_one_line_in_the_log(
    records: Records, run: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST", 0.0)
    work = Sums(records)
    work.go.set()
    replace_record, tries = records.replace, 0

    async def full(record: Record) -> Record | None:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise Unavailable("The disk is full.")
        return await replace_record(record)

    monkeypatch.setattr(records, "replace", full)
    with capture_logs() as logs:
        await records.add([queued("a")])
        run(work)
        await ended(records, "a", "done")
    assert [line["event"] for line in logs] == ["work.not_stored"]


class Resting(Sums):
    """Work that rests until ``go``."""

    async def run(self, record: Record, slot: Slot) -> None:
        if record.owner == "other":
            await super().run(record, slot)
            return
        self.began.append(record.id)
        async with slot.resting():
            await asyncio.Event().wait()


async def test_work_that_rests_stops_no_other_work(records: Records, run: Start) -> None:
    work = Resting(records, at_once=1)
    work.go.set()
    run(work)
    await records.add([queued(f"w{n}") for n in range(3)])
    await records.add([replace(queued("mine"), owner="other")])
    await ended(records, "mine", "done")
    async with asyncio.timeout(20):
        while len(work.began) < 4:
            await asyncio.sleep(0.01)
    assert sorted(work.began) == ["mine", "w0", "w1", "w2"]


async def test_the_work_of_another_key_is_found_behind_a_page_of_work(records: Records, run: Start) -> None:
    work = Resting(records, at_once=1)
    work.go.set()
    await records.add([queued(f"w{n}") for n in range(150)])
    await records.add([replace(queued("mine"), owner="other")])
    run(work)
    await ended(records, "mine", "done")
