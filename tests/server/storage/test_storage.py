"""Objects of callers: seen by their own key, changed by one request at a time, listed in pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import InvalidRequest, NotFound, PayloadTooLarge
from routing.clock import SystemClock
from routing.state.records import Record, RecordQuery, StorageFull
from routing.state.sqlite import SqliteState
from server.callers import Caller
from server.storage.settings import StorageSettings
from server.storage.storage import Page, Storage, listed

ALICE, BOB = Caller("alice"), Caller("bob", admin=True)
QUERY = RecordQuery("response", owner="alice")


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    yield Storage(state.records, StorageSettings(bytes_per_key=100_000), SystemClock())
    await state.close()


@pytest.fixture
async def five(storage: Storage) -> Storage:
    await storage.keep(*(storage.new("response", f"r{n}", {"id": f"r{n}"}, ALICE) for n in range(5)))
    return storage


async def names(storage: Storage, page: Page, query: RecordQuery = QUERY) -> tuple[list[str], bool]:
    records, more = await storage.page(query, page)
    return [record.id for record in records], more


async def test_an_object_of_another_key_is_not_found(five: Storage) -> None:
    assert (await five.found("response", "r1", ALICE)).body == {"id": "r1"}
    for caller, name in ((BOB, "r1"), (ALICE, "r9")):
        with pytest.raises(NotFound, match=r"There is no response 'r[19]' \(any more\)"):
            await five.found("response", name, caller)


async def test_changes_at_the_same_time_are_all_made(five: Storage) -> None:
    def count(record: Record) -> Record:
        return record.changed(n=record.body.get("n", 0) + 1)

    await asyncio.gather(*(five.change("response", "r0", ALICE, count) for _ in range(8)))
    assert (await five.found("response", "r0", ALICE)).body["n"] == 8


async def test_lists_have_pages_in_both_orders_and_directions(five: Storage) -> None:
    assert await names(five, Page(limit=2)) == (["r4", "r3"], True)
    assert await names(five, Page(limit=2, after="r3")) == (["r2", "r1"], True)
    assert await names(five, Page(limit=2, after="r1")) == (["r0"], False)
    assert await names(five, Page(limit=5, order="asc")) == (["r0", "r1", "r2", "r3", "r4"], False)
    assert await names(five, Page(limit=2, order="asc", after="r1")) == (["r2", "r3"], True)
    assert await names(five, Page(limit=2, order="asc", before="r4")) == (["r2", "r3"], True)
    assert await names(five, Page(limit=2, before="r3")) == (["r4"], False)
    with pytest.raises(InvalidRequest, match="no 'r9' to go on from"):
        await names(five, Page(after="r9"))
    with pytest.raises(InvalidRequest):
        await names(five, Page(after="r1"), replace(QUERY, owner="bob"))


async def test_a_list_goes_on_while_its_objects_are_deleted(five: Storage) -> None:
    first, _ = await names(five, Page(limit=2))
    for name in first:
        await five.records.delete("response", name, "alice")
    assert await names(five, Page(limit=2, after=first[-1])) == (["r2", "r1"], True)


async def test_a_filter_fills_its_pages(five: Storage) -> None:
    records, more = await five.page(QUERY, Page(limit=2), keep=lambda record: record.id in ("r0", "r2", "r4"))
    assert ([record.id for record in records], more) == (["r4", "r2"], True)


@pytest.mark.parametrize("kind", ["response", "file", "batch", "conversation", "upload"])
async def test_old_answers_give_way_to_every_new_record_and_nothing_else_does(storage: Storage, kind: str) -> None:
    big = {"text": "x" * 60_000}
    await storage.keep(storage.new("response", "old", big, ALICE))
    await storage.keep(storage.new(kind, "new", big, ALICE))
    with pytest.raises(NotFound):
        await storage.found("response", "old", ALICE)
    if kind != "response":
        with pytest.raises(StorageFull, match=r"storage\.bytes_per_key"):
            await storage.keep(storage.new("file", "newer", big, ALICE))


def test_a_list_names_its_ends() -> None:
    assert listed([{"id": "a"}, {"id": "b"}], True) == {
        "object": "list",
        "data": [{"id": "a"}, {"id": "b"}],
        "first_id": "a",
        "last_id": "b",
        "has_more": True,
    }
    assert listed([], False)["last_id"] is None


async def test_an_object_larger_than_all_the_room_of_a_key_is_too_large(storage: Storage) -> None:
    large = storage.new("conversation", "conv_1", {"text": "x" * 100_001}, Caller("me"))
    with pytest.raises(PayloadTooLarge, match=r"storage\.bytes_per_key"):
        await storage.keep(large)
    await storage.keep(storage.new("conversation", "conv_2", {}, Caller("me")))
