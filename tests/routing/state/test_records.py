"""The contract of records, on every store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import Unavailable
from routing.state import records as module
from routing.state.protocol import State
from routing.state.records import Record, RecordQuery, StorageFull, every, new_id
from routing.state.sqlite import SqliteState
from tests.routing.state.stores import Opener

LONG_AGO = 1.0
GIVES_WAY = ("response", "chat")


def made(name: str, **fields: Any) -> Record:
    return replace(Record("response", name, {"text": name}, owner="a", created_at=5.0), **fields)


async def ids(state: State, query: RecordQuery) -> list[str]:
    return [record.id async for record in every(state.records, query)]


async def test_a_record_outlives_the_process_and_belongs_to_its_owner(opener: Opener) -> None:
    state = await opener()
    await state.records.add([made("r1", parent="p", status="queued", expires_at=time.time() + 1000)])
    again = (await opener()).records
    found = await again.get("response", "r1", "a")
    assert found is not None
    assert (found.body, found.owner, found.parent, found.status) == ({"text": "r1"}, "a", "p", "queued")
    assert found.created_at == 5.0
    assert found.version == 0
    assert await again.get("response", "r1") == found
    for kind, name, owner in (
        ("response", "r1", "b"),
        ("response", "r1", ""),
        ("file", "r1", "a"),
        ("response", "x", "a"),
    ):
        assert await again.get(kind, name, owner) is None


async def test_lists_are_in_order_by_owner_parent_and_status_and_go_on_after_a_record(opener: Opener) -> None:
    state = await opener()
    await state.records.add([made(f"a{n}", parent="p" if n % 2 else "", status="queued") for n in range(5)])
    await state.records.add([made("b", owner="b", status="done")])
    assert await ids(state, RecordQuery("response")) == ["a0", "a1", "a2", "a3", "a4", "b"]
    assert await ids(state, RecordQuery("response", owner="a", limit=2)) == ["a0", "a1", "a2", "a3", "a4"]
    assert await ids(state, RecordQuery("response", owner="a", newest_first=True, limit=2)) == [
        *("a4", "a3", "a2", "a1", "a0")
    ]
    assert await ids(state, RecordQuery("response", parent="p", limit=1)) == ["a1", "a3"]
    assert await ids(state, RecordQuery("response", parent="p", owner="b")) == []
    assert await ids(state, RecordQuery("response", status="done")) == ["b"]
    [first, second] = await state.records.find(RecordQuery("response", owner="a", limit=2))
    after = await state.records.find(RecordQuery("response", owner="a", after=second.sequence, limit=1))
    assert [record.id for record in after] == ["a2"]
    before = RecordQuery("response", owner="a", after=second.sequence, newest_first=True)
    assert await state.records.find(before) == [first]


async def test_a_record_whose_id_is_taken_stays_as_it_is_stored_and_takes_no_room_twice(opener: Opener) -> None:
    records = (await opener()).records
    await records.add([made("r1")])
    used = await records.used("a")
    await records.add([made("r1", body={"text": "other"})])
    found = await records.get("response", "r1")
    assert found is not None
    assert found.body == {"text": "r1"}
    assert await records.used("a") == used


async def test_of_two_changes_to_one_version_one_holds(opener: Opener) -> None:
    one, two = (await opener()).records, (await opener()).records
    await one.add([made("r", status="queued")])
    mine, theirs = await one.get("response", "r"), await two.get("response", "r")
    assert mine is not None
    assert theirs is not None
    results = await asyncio.gather(
        one.replace(mine.changed(status="done", by="one")), two.replace(theirs.changed(status="done", by="two"))
    )
    [winner] = [result for result in results if result is not None]
    stored = await one.get("response", "r")
    assert stored == winner
    assert stored.version == 1
    assert await two.find(RecordQuery("response", status="queued")) == []
    assert [record.id for record in await two.find(RecordQuery("response", status="done"))] == ["r"]
    assert await one.replace(made("gone")) is None


async def test_a_deleted_record_takes_its_parts_with_it_and_frees_their_room(opener: Opener) -> None:
    state = await opener()
    await state.records.add([made("conversation")])
    await state.records.add([made("part", kind="item", parent="conversation"), made("other", kind="item")])
    await state.records.add([made("nested", kind="note", parent="part")])
    assert not await state.records.delete("response", "conversation", "b")
    assert await state.records.delete("response", "conversation", "a")
    assert not await state.records.delete("response", "conversation", "a")
    assert await ids(state, RecordQuery("item")) == ["other"]
    assert await ids(state, RecordQuery("note")) == []
    assert await state.records.delete("item", "other")
    assert await state.records.used("a") == 0


async def test_the_records_of_a_key_stay_within_its_room(opener: Opener) -> None:
    records = (await opener()).records
    big = {"text": "x" * 10_000}
    for number in range(3):
        await records.add([made(f"r{number}", body=big)], room=40_000)
    used = await records.used("a")
    assert 30_000 <= used <= 33_000
    with pytest.raises(StorageFull, match="40,000 bytes"):
        await records.add([made("r3", body=big)], room=40_000)
    assert await records.get("response", "r3") is None
    await records.add([made("r3", body=big, owner="b")], room=40_000)
    await records.add([made("r4", body=big)], room=40_000, give_way=GIVES_WAY)
    assert await records.get("response", "r0") is None, "the oldest gave way"
    assert await records.used("a") == used
    with pytest.raises(StorageFull):
        await records.add([made("huge", body={"text": "x" * 50_000})], room=40_000, give_way=GIVES_WAY)
    assert await records.get("response", "r1") is not None, "nothing is deleted for what can never fit"
    assert await records.hold("response", "r1", "me", time.time() + 1000)
    await records.add([made("r5", body=big)], room=40_000, give_way=GIVES_WAY)
    assert await records.get("response", "r1") is not None, "held records are at work"
    assert await records.get("response", "r2") is None
    changed = await records.get("response", "r5")
    assert changed is not None
    await records.replace(replace(changed, body={}))
    assert await records.used("a") == used - len('"text":""') - 10_000


async def test_only_finished_records_of_the_named_kinds_give_way_the_oldest_first_and_with_their_parts(
    opener: Opener,
) -> None:
    records = (await opener()).records
    big = {"text": "x" * 10_000}
    await records.add([made("running", body=big, status="in_progress")])
    await records.add([made("file", kind="file", body=big)])
    await records.add([made("chat", kind="chat")])
    await records.add([made("old")])
    await records.add([made("events", kind="events", parent="old", body=big)])
    await records.add([made("new", body=big)])
    await records.add([made("batch", kind="batch", body=big)], room=45_000, give_way=GIVES_WAY)
    kept = [("response", "running"), ("file", "file"), ("response", "new"), ("batch", "batch")]
    for kind, name in kept:
        assert await records.get(kind, name) is not None, name
    for kind, name in (("chat", "chat"), ("response", "old"), ("events", "events")):
        assert await records.get(kind, name) is None, name
    with pytest.raises(StorageFull):
        await records.add(
            [made("bigger", kind="file", body={"text": "x" * 30_000})], room=45_000, give_way=GIVES_WAY
        )
    assert await records.get("response", "new") is not None, "nothing is deleted if that does not help"


async def test_the_place_of_a_deleted_record_is_known_to_its_owner(opener: Opener) -> None:
    records = (await opener()).records
    await records.add([made("r1", parent="p"), made("r2")])
    before = await records.place("response", "r1", "a")
    assert before is not None
    assert before[1] == "p"
    await records.delete("response", "r1", "a")
    assert await records.place("response", "r1", "a") == before
    assert await records.place("response", "r1", "b") is None
    assert await records.place("response", "r3", "a") is None


async def test_the_place_of_a_record_that_gave_way_or_expired_is_known(opener: Opener) -> None:
    records = (await opener()).records
    await records.add([made("r1")])
    one = await records.used("a")
    soon = time.time() + 0.05
    await records.add([made("r2", expires_at=soon), made("r3")])
    places = [await records.place("response", f"r{number}", "a") for number in (1, 2, 3)]
    assert None not in places
    await records.add([made("r4")], room=3 * one, give_way=GIVES_WAY)
    assert await records.get("response", "r1") is None
    while time.time() <= soon:
        await asyncio.sleep(0.01)
    assert await records.get("response", "r2") is None
    for _ in range(2):
        assert [await records.place("response", f"r{number}", "a") for number in (1, 2, 3)] == places
        assert await records.place("response", "r2", "b") is None
        await records.prune(time.time())


async def test_one_process_at_a_time_holds_a_record(opener: Opener) -> None:
    one, two = (await opener()).records, (await opener()).records
    await one.add([made("r")])
    later = time.time() + 1000
    taken = await asyncio.gather(one.hold("response", "r", "1", later), two.hold("response", "r", "2", later))
    assert sorted(taken) == [False, True]
    holder, other = ("1", "2") if await one.hold("response", "r", "1", later) else ("2", "1")
    assert not await one.hold("response", "r", other, later)
    assert await two.hold("response", "r", holder, LONG_AGO), "a holder lets go"
    assert await one.hold("response", "r", other, later)
    found = await one.get("response", "r")
    assert found is not None
    assert found.version == 0, "holding changes nothing of the record"
    assert not await one.hold("response", "gone", "1", later)


async def test_expired_records_are_gone_and_pruned(opener: Opener) -> None:
    state = await opener()
    await state.records.add([made("old", expires_at=LONG_AGO), made("new", expires_at=time.time() + 1000)])
    await state.records.add([made("part", kind="item", parent="old")])
    assert await state.records.get("response", "old") is None
    assert await ids(state, RecordQuery("response", limit=1)) == ["new"]
    assert await state.records.prune(time.time()) == 2
    assert await ids(state, RecordQuery("item")) == []
    await state.records.delete("response", "new")
    assert await state.records.used("a") == 0


async def test_texts_of_any_language_and_odd_ids_are_kept(opener: Opener) -> None:
    records = (await opener()).records
    odd = made("a:b*c\n\u2028 \U0001f600", body={"text": "\u0000\ud7ff €"}, owner="k:*")
    await records.add([odd])
    found = await records.get("response", odd.id, "k:*")
    assert found is not None
    assert found.body == odd.body
    assert await records.delete("response", odd.id, "k:*")


async def test_a_store_that_cannot_write_says_so_in_time_and_writes_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORE_TIMEOUT", 0.2)
    monkeypatch.setattr("routing.state.sqlite_records.STORE_TIMEOUT", 0.2)
    state = SqliteState(tmp_path / "s.sqlite")
    await state.start()
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="does not answer"):
        await state.records.add([made("r")])
    other.execute("ROLLBACK")
    other.close()
    await state.flush()
    assert await state.records.get("response", "r") is None
    await state.close()


def test_ids_cannot_be_guessed() -> None:
    assert len({new_id("resp") for _ in range(100)}) == 100
    assert len(new_id("resp")) == len("resp_") + 32
