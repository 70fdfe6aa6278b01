"""Fairness, bounds and cancellation of the queue in front of a worker's slots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from backends.queueing import (
    AWHILE,
    CALM,
    INTERACTIVE_PER_BATCH,
    LONGEST_REST,
    LONGEST_WAIT,
    LULL,
    REST,
    FairQueue,
    FairSlots,
    Grant,
    Need,
    Priority,
)
from catalog.errors import QueueFull, WorkerFailed


def slots(*, max_queue: int = 100) -> FairSlots:
    ticks = iter(range(10**6))
    return FairSlots(max_queue=max_queue, changed=lambda: None, clock=lambda: float(next(ticks)))


async def queued(on: FairSlots, need: Need) -> asyncio.Task[Grant]:
    """Start a task that waits in the queue."""
    before = on.waiting
    task = asyncio.create_task(on.acquire(need))
    while on.waiting == before and not task.done():
        await asyncio.sleep(0)
    return task


def test_flows_take_turns_whatever_each_has_queued() -> None:
    queue: FairQueue[str] = FairQueue()
    for i in range(3):
        queue.push(f"greedy{i}", flow="greedy", priority=Priority.INTERACTIVE)
    queue.push("modest0", flow="modest", priority=Priority.INTERACTIVE)
    assert [queue.pop() for _ in range(4)] == ["greedy0", "modest0", "greedy1", "greedy2"]


def test_interactive_goes_before_batch_and_batch_is_not_starved() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("b", flow="b", priority=Priority.BATCH)
    for i in range(10):
        queue.push(f"i{i}", flow="a", priority=Priority.INTERACTIVE)
    order = [queue.pop() for _ in range(11)]
    assert order.index("b") == INTERACTIVE_PER_BATCH


def test_an_empty_queue_gives_nothing() -> None:
    with pytest.raises(IndexError):
        FairQueue[str]().pop()


async def test_no_more_than_the_slots_are_held_at_a_time() -> None:
    some = slots()
    some.open(2)
    first, second = await some.acquire(Need()), await some.acquire(Need())
    third = await queued(some, Need())
    assert not third.done()
    assert some.busy == 2
    some.release(first)
    grant = await third
    assert some.busy == 2
    some.release(second)
    some.release(grant)
    assert some.idle


async def test_a_lease_of_several_slots_waits_for_all_and_is_not_passed_by() -> None:
    some = slots()
    some.open(3)
    held = [await some.acquire(Need()) for _ in range(2)]
    wide = await queued(some, Need(slots=3, flow="wide"))
    narrow = await queued(some, Need(flow="narrow"))
    assert not narrow.done(), "one slot is free, but it was not its turn"
    for grant in held:
        some.release(grant)
    some.release(await wide)
    some.release(await narrow)


async def test_more_slots_than_there_are_means_all_of_them() -> None:
    some = slots()
    some.open(2)
    assert (await some.acquire(Need(slots=16))).slots == 2


async def test_a_call_that_decodes_nothing_needs_no_slot() -> None:
    some = slots()
    some.open(1)
    busy = await some.acquire(Need())
    counting = await some.acquire(Need(slots=0))
    assert (some.busy, some.users) == (1, 2)
    some.release(busy)
    assert not some.idle, "the worker may not be stopped under it"
    some.release(counting)
    assert some.idle


async def test_the_queue_is_bounded_and_says_when_to_come_again() -> None:
    some = slots(max_queue=1)
    some.open(1)
    held = await some.acquire(Need())
    waiting = await queued(some, Need())
    with pytest.raises(QueueFull) as refused:
        await some.acquire(Need())
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    some.release(held)
    some.release(await waiting)


async def test_a_refusals_wait_follows_the_queue_and_not_one_long_request_of_before() -> None:
    now = 0.0
    some = FairSlots(max_queue=4, changed=lambda: None, clock=lambda: now)
    some.open(1)

    async def served(seconds: float) -> None:
        nonlocal now
        grant = await some.acquire(Need())
        now += seconds
        some.release(grant)

    await served(900)
    assert some.estimated_wait() == LONGEST_WAIT
    for _ in range(3):
        await served(2)
    assert some.estimated_wait() == 2
    held = await some.acquire(Need())
    waiting = [await queued(some, Need()) for _ in range(4)]
    assert some.estimated_wait() == 10, "five rounds"
    some.release(held)
    for task in waiting:
        some.release(await task)
    now += 1000
    assert some.estimated_wait() == 1, "what was long ago says nothing"


async def test_a_cancelled_wait_leaves_no_trace() -> None:
    some = slots()
    some.open(1)
    held = await some.acquire(Need())
    given_up, patient = await queued(some, Need()), await queued(some, Need())
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert some.waiting == 1
    some.release(held)
    some.release(await patient)
    assert some.idle


async def test_a_wait_cancelled_in_the_moment_of_its_turn_gives_the_slot_back() -> None:
    some = slots()
    some.open(1)
    held = await some.acquire(Need())
    given_up = await queued(some, Need())
    some.release(held)
    assert some.busy == 1, "granted, but the task has not run yet"
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert some.idle


async def test_a_cancelled_wide_lease_lets_the_next_one_through() -> None:
    some = slots()
    some.open(2)
    held = await some.acquire(Need())
    wide, narrow = await queued(some, Need(slots=2)), await queued(some, Need(flow="other"))
    wide.cancel()
    some.release(await narrow)
    some.release(held)


async def test_those_who_wait_are_told_of_a_failure_each_with_its_own_error() -> None:
    some = slots()
    waiting = [await queued(some, Need()) for _ in range(3)]
    some.fail(lambda: WorkerFailed("broken"))
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, WorkerFailed) for error in errors)
    assert len({id(error) for error in errors}) == 3
    assert some.idle


async def test_what_a_dead_worker_had_given_out_is_not_given_back_to_the_next() -> None:
    some = slots()
    some.open(1)
    of_the_dead = await some.acquire(Need())
    some.lost()
    some.open(1)
    of_the_living = await some.acquire(Need())
    some.release(of_the_dead)
    assert some.busy == 1
    some.release(of_the_living)
    assert some.idle


async def test_a_full_queue_makes_room_for_a_caller_who_has_less_waiting() -> None:
    some = slots(max_queue=4)
    greedy = [asyncio.create_task(some.acquire(Need(flow="greedy"))) for _ in range(4)]
    await asyncio.sleep(0)
    modest = asyncio.create_task(some.acquire(Need(flow="modest")))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await greedy.pop()
    assert some.waiting == 4
    second = asyncio.create_task(some.acquire(Need(flow="modest")))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await greedy.pop()
    with pytest.raises(QueueFull):
        await some.acquire(Need(flow="modest"))
    for task in (*greedy, modest, second):
        assert not task.done()
        task.cancel()
    await asyncio.gather(*greedy, modest, second, return_exceptions=True)


async def test_a_full_queue_is_for_interactive_requests_but_for_a_fifth() -> None:
    some = slots(max_queue=5)
    batch = [asyncio.create_task(some.acquire(Need(priority=Priority.BATCH))) for _ in range(5)]
    await asyncio.sleep(0)
    interactive = [asyncio.create_task(some.acquire(Need())) for _ in range(4)]
    await asyncio.sleep(0)
    refused = await asyncio.gather(*batch[1:], return_exceptions=True)
    assert all(isinstance(error, QueueFull) for error in refused)
    with pytest.raises(QueueFull):
        await some.acquire(Need())
    for task in (batch[0], *interactive):
        assert not task.done()
        task.cancel()
    await asyncio.gather(batch[0], *interactive, return_exceptions=True)


async def granted(some: FairSlots, *needs: Need) -> list[asyncio.Task[Grant]]:
    tasks = [asyncio.create_task(some.acquire(need)) for need in needs]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def at_work(tasks: list[asyncio.Task[Grant]]) -> int:
    return sum(task.done() for task in tasks)


BATCH = Need(priority=Priority.BATCH)


@pytest.mark.parametrize(("capacity", "most"), [(1, 1), (2, 1), (4, 3), (16, 12)])
async def test_batch_leaves_a_share_of_the_slots_for_interactive_requests(capacity: int, most: int) -> None:
    some = FairSlots(max_queue=99, changed=lambda: None, clock=lambda: 0.0)
    some.open(capacity)
    batch = await granted(some, *[BATCH] * (capacity + 1))
    assert at_work(batch) == most
    if capacity > 1:
        assert at_work(await granted(some, Need())) == 1, "it waits for no batch request"
    for task in batch:
        task.cancel()


async def test_batch_shrinks_while_interactive_requests_come_and_grows_when_they_end() -> None:
    now = 0.0
    some = FairSlots(max_queue=99, changed=lambda: None, clock=lambda: now)
    some.open(8)
    (talking,) = await granted(some, Need())
    batch = await granted(some, *[BATCH] * 8)
    assert at_work(batch) == 2, "one slot in four"
    some.release(talking.result())
    some.release(batch[0].result())
    await asyncio.sleep(0)
    assert at_work(batch) == 3, "another interactive request is expected"
    now = CALM + 1
    some.release(batch[1].result())
    await asyncio.sleep(0)
    assert at_work(batch) == 8
    assert some.waiting == 0


async def test_batch_is_never_starved_by_interactive_requests() -> None:
    some = FairSlots(max_queue=99, changed=lambda: None, clock=lambda: 0.0)
    some.open(2)
    talking = await granted(some, *[Need()] * 2)
    (batch,) = await granted(some, BATCH)
    waiting = await granted(some, *[Need()] * 8)
    assert (some.waiting, some.waiting_batch) == (9, 1)
    for _ in range(5):
        first = next(task for task in (*talking, *waiting) if task.done() and task.result() in some._held)
        some.release(first.result())
        await asyncio.sleep(0)
    assert batch.done()
    for task in waiting:
        task.cancel()


class Timed:
    """Slots that give way, with a clock and timers of the test."""

    def __init__(self, capacity: int) -> None:
        self.now = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self.slots = FairSlots(max_queue=99, changed=lambda: None, clock=lambda: self.now, later=self._later)
        self.slots.open(capacity, gives_way=True)

    def _later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.now + seconds, call, (), asyncio.get_running_loop())
        self._timers.append(handle)
        return handle

    async def past(self, seconds: float) -> None:
        """Let time pass; every timer runs at its time."""
        end = self.now + seconds
        while due := [each for each in self._timers if each.when() <= end and not each.cancelled()]:
            first = min(due, key=asyncio.TimerHandle.when)
            self._timers.remove(first)
            self.now = max(self.now, first.when())
            first._run()
            await asyncio.sleep(0)
        self.now = end
        await asyncio.sleep(0)

    @property
    def timers(self) -> int:
        return sum(not each.cancelled() for each in self._timers)

    async def ask(self, *needs: Need) -> list[asyncio.Task[Grant]]:
        return await granted(self.slots, *needs)

    async def release(self, task: asyncio.Task[Grant]) -> None:
        self.slots.release(await task)
        await asyncio.sleep(0)


@pytest.mark.parametrize("capacity", [1, 4])
async def test_batch_that_gives_way_works_in_the_pauses_of_interactive_requests(capacity: int) -> None:
    some = Timed(capacity)
    (batch,) = await some.ask(BATCH)
    await some.past(2.0)
    await some.release(batch)
    (talking,) = await some.ask(Need())
    (batch,) = await some.ask(BATCH)
    await some.past(1.0)
    assert not batch.done(), "an interactive request is at work"
    await some.release(talking)
    await some.past(LULL / 2)
    assert not batch.done(), "the next one is expected"
    await some.past(LULL)
    assert batch.done()
    assert some.timers == 0


async def test_batch_that_gives_way_has_a_quarter_of_the_time_where_there_is_no_pause() -> None:
    some = Timed(4)
    await some.ask(Need())
    batch = await some.ask(*[BATCH] * 20)
    began: list[float] = []
    for task in batch[:5]:
        while not task.done():
            await some.past(0.5)
        began.append(some.now)
        assert at_work(batch) == len(began), "one at a time"
        await some.past(2.0)
        await some.release(task)
    assert began == [number * (1 + REST) * 2.0 for number in range(5)]
    for task in batch:
        task.cancel()


async def test_batch_that_gives_way_is_not_starved_after_a_long_request() -> None:
    some = Timed(4)
    (long,) = await some.ask(BATCH)
    await some.ask(Need())
    await some.past(10 * LONGEST_REST)
    (batch,) = await some.ask(BATCH)
    await some.release(long)
    await some.past(LONGEST_REST - 1)
    assert not batch.done()
    await some.past(1)
    assert batch.done()


async def test_batch_that_gives_way_has_every_slot_a_while_after_the_last_interactive_request() -> None:
    some = Timed(4)
    batch = await some.ask(*[BATCH] * 3)
    assert at_work(batch) == 3
    (talking,) = await some.ask(Need())
    await some.release(talking)
    for task in batch:
        await some.release(task)
    more = await some.ask(*[BATCH] * 5)
    await some.past(LULL)
    assert at_work(more) == 1
    await some.past(AWHILE)
    await some.release(more[0])
    assert at_work(more) == 4, "one has ended, and three are at work"
    for task in more:
        task.cancel()


async def test_batch_that_gives_way_keeps_one_timer_however_many_requests_come() -> None:
    some = Timed(4)
    (long,) = await some.ask(BATCH)
    await some.past(10.0)
    for _ in range(50):
        (talking,) = await some.ask(Need())
        (batch,) = await some.ask(BATCH)
        if long is not None and not long.cancelled():
            some.slots.release(long.result())
        await some.past(0.1)
        await some.release(talking)
        assert some.timers <= 1
        batch.cancel()
        await asyncio.sleep(0)
