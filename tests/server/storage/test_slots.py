"""Slots are shared fairly between keys, and work that only waits has none."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from server.storage.slots import SLICE, Slot, Slots, leaves_room


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_free_slot_goes_to_the_key_that_has_the_fewest() -> None:
    slots = Slots(lambda: 2, lambda: 0.0)
    got: list[str] = []

    async def take(owner: str) -> None:
        await slots.take(owner)
        got.append(owner)

    async with asyncio.TaskGroup() as group:
        for owner in ("a", "a", "a", "a", "b"):
            group.create_task(take(owner))
            await settled()
        assert got == ["a", "a"]
        for _ in range(3):
            slots.give(got[0])
            await settled()
    assert got == ["a", "a", "b", "a", "a"]


async def test_work_has_its_slot_while_a_part_of_it_works() -> None:
    slots = Slots(lambda: 1, lambda: 0.0)
    mine, other = Slot(slots, "a"), Slot(slots, "b")
    began = asyncio.Event()

    async def work() -> None:
        async with other.working():
            began.set()

    async with asyncio.TaskGroup() as group, mine.working():
        group.create_task(work())
        async with mine.working(), mine.resting():
            await settled()
            assert not began.is_set(), "another part works"
        async with mine.resting():
            await began.wait()
            assert mine.idle
        assert not mine.idle


async def test_work_makes_room_after_its_slice_for_a_key_that_has_fewer() -> None:
    now = 0.0
    slots = Slots(lambda: 1, lambda: now)
    mine, other = Slot(slots, "a"), Slot(slots, "b")
    order: list[str] = []

    async def work(slot: Slot, lines: int, done: asyncio.Event | None = None) -> None:
        for _ in range(lines):
            async with slot.working():
                order.append(slot.owner)
                if done is not None:
                    await done.wait()

    held = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(work(mine, 1, held))
        await settled()
        group.create_task(work(other, 1))
        await settled()
        group.create_task(work(mine, 1))
        await settled()
        assert order == ["a", "a"], "within its slice it works on"
        now = SLICE
        group.create_task(work(mine, 1))
        await settled()
        assert order == ["a", "a"]
        held.set()
    assert order == ["a", "a", "b", "a"]


@pytest.mark.parametrize("granted", [False, True])
async def test_work_that_is_cancelled_while_it_waits_leaves_no_slot_taken(granted: bool) -> None:
    slots = Slots(lambda: 1, lambda: 0.0)
    await slots.take("a")
    waiting = asyncio.create_task(slots.take("b"))
    await settled()
    if granted:
        slots.give("a")
    waiting.cancel()
    await asyncio.wait((waiting,))
    if not granted:
        slots.give("a")
    async with asyncio.timeout(5):
        await slots.take("c")


@pytest.mark.parametrize("most", [2, 3, 8, 16, 64])
def test_slots_that_are_kept_long_never_run_out_for_one_more_key(most: int) -> None:
    held = Counter[str]()
    for owner in ("a", "b"):
        for _ in range(most):
            if leaves_room(owner, held[owner], held.total(), most):
                held[owner] += 1
        assert held[owner] >= 1, "a first slot needs nothing but a free one"
    assert held.total() < most or most < 8
    assert held["a"] <= max(1, most * 3 // 4)


def test_a_server_without_keys_uses_every_slot() -> None:
    assert all(leaves_room("anonymous", taken, taken, 8) for taken in range(8))
    assert not leaves_room("anonymous", 8, 8, 8)
