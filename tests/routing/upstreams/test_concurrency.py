"""Queues in front of endpoints with max_concurrency."""

from __future__ import annotations

import asyncio

import pytest

from backends.queueing import Grant, Need, Priority
from catalog.errors import QueueFull
from catalog.model import Endpoint
from routing.upstreams.concurrency import ConcurrencyLimits, QueueLoad
from tests.routing.clocks import ManualClock


def lab(most: int | None) -> Endpoint:
    return Endpoint(id="lab", base_url="http://lab/v1", max_concurrency=most)


async def waiting(limits: ConcurrencyLimits, endpoint: Endpoint, need: Need | None = None) -> asyncio.Task[Grant]:
    queue = limits.at(endpoint)
    assert queue is not None
    task = asyncio.create_task(queue.acquire(need or Need()))
    await asyncio.sleep(0)
    return task


async def test_an_endpoint_without_max_concurrency_has_no_queue() -> None:
    limits = ConcurrencyLimits(ManualClock(), max_queue=1)
    assert limits.at(lab(None)) is None
    assert limits.queue_loads() == ()
    assert limits.queued_ahead() == {}


async def test_at_most_max_concurrency_calls_are_in_progress_and_the_others_follow_in_order() -> None:
    limits = ConcurrencyLimits(ManualClock(), max_queue=10)
    calls = [await waiting(limits, lab(2)) for _ in range(4)]
    assert [call.done() for call in calls] == [True, True, False, False]
    assert limits.queue_loads() == (QueueLoad("lab", busy=2, waiting=2, capacity=2),)
    assert limits.queued_ahead() == {"lab": 1.5}, "one more would wait for three others, two at a time"
    queue = limits.at(lab(2))
    assert queue is not None
    queue.release(calls[0].result())
    await asyncio.sleep(0)
    assert [call.done() for call in calls] == [True, True, True, False]
    calls[3].cancel()
    await asyncio.gather(calls[3], return_exceptions=True)
    queue.release(calls[1].result())
    assert limits.queued_ahead() == {}


async def test_interactive_calls_go_before_batch_and_keys_alternate() -> None:
    limits = ConcurrencyLimits(ManualClock(), max_queue=10)
    first = await waiting(limits, lab(1))
    batch = await waiting(limits, lab(1), Need(priority=Priority.BATCH))
    greedy = [await waiting(limits, lab(1), Need(flow="greedy")) for _ in range(3)]
    modest = await waiting(limits, lab(1), Need(flow="modest"))
    order = []
    queue = limits.at(lab(1))
    assert queue is not None
    held = first.result()
    for _ in range(5):
        queue.release(held)
        await asyncio.sleep(0)
        (name, task) = next(
            (name, task)
            for name, task in (("batch", batch), ("modest", modest), *(("greedy", one) for one in greedy))
            if task.done() and task.result() is not held and task.result() in queue._held
        )
        order.append(name)
        held = task.result()
    assert order == ["greedy", "modest", "greedy", "batch", "greedy"], "one batch call after four interactive ones"


async def test_a_full_queue_refuses_with_the_endpoint_s_name_and_a_time_to_wait() -> None:
    limits = ConcurrencyLimits(ManualClock(), max_queue=1)
    await waiting(limits, lab(1))
    await waiting(limits, lab(1))
    refused = await waiting(limits, lab(1))
    with pytest.raises(QueueFull, match="endpoint 'lab'") as error:
        await refused
    assert error.value.retry_after is not None
    assert error.value.retryable, "another candidate may be free"


@pytest.mark.parametrize(("after", "at_work"), [(3, 3), (None, 4)], ids=["raised", "lifted"])
async def test_a_changed_bound_applies_at_once_to_waiting_calls(after: int | None, at_work: int) -> None:
    limits = ConcurrencyLimits(ManualClock(), max_queue=10)
    calls = [await waiting(limits, lab(1)) for _ in range(4)]
    limits.at(lab(after))
    await asyncio.sleep(0)
    assert sum(call.done() for call in calls) == at_work
    for call in calls:
        call.cancel()


async def test_a_lowered_bound_lets_calls_in_progress_finish() -> None:
    limits = ConcurrencyLimits(ManualClock(), max_queue=10)
    calls = [await waiting(limits, lab(3)) for _ in range(4)]
    queue = limits.at(lab(1))
    assert queue is not None
    queue.release(calls[0].result())
    queue.release(calls[1].result())
    await asyncio.sleep(0)
    assert not calls[3].done()
    queue.release(calls[2].result())
    await asyncio.sleep(0)
    assert calls[3].done()
