"""Leases of a supervisor's workers: slots, order, and cancellation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.queueing import Need, Priority
from catalog.errors import (
    QueueFull,
)
from tests.backends.workers.conftest import OpenPool, model, stats, until_active


async def test_a_worker_works_on_no_more_requests_than_it_has_slots(open_pool: OpenPool, tmp_path: Path) -> None:
    async with open_pool(slots=3) as h:
        go = tmp_path / "go"
        asked = [asyncio.create_task(h.ask(model(), hold=str(go))) for _ in range(12)]
        async with h.pool.lease(model(), Need(slots=0)) as upstream:
            await until_active(upstream, 3)
            assert (h.view().busy, h.view().queued) == (3, 9)
            go.touch()
            await asyncio.gather(*asked)
            seen = await stats(upstream)
        assert seen["most"] == 3
        assert seen["done"] == 12


async def test_extra_requests_may_wait_in_the_worker_itself(open_pool: OpenPool, tmp_path: Path) -> None:
    async with open_pool(slots=1, extra=1) as h:
        go = tmp_path / "go"
        asked = [asyncio.create_task(h.ask(model(), hold=str(go))) for _ in range(6)]
        async with h.pool.lease(model(), Need(slots=0)) as upstream:
            await until_active(upstream, 2)
            assert h.view().queued == 4
            go.touch()
            await asyncio.gather(*asked)
            assert (await stats(upstream))["most"] == 2


async def test_the_queue_is_bounded(open_pool: OpenPool) -> None:
    async with open_pool(slots=1, max_queue=2) as h, h.pool.lease(model(), Need()):
        waiting = [asyncio.create_task(h.ask(model())) for _ in range(2)]
        await h.until(lambda: h.view().queued == 2)
        with pytest.raises(QueueFull) as refused:
            await h.ask(model())
        assert refused.value.status == 429
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert h.view().queued == 0


async def test_callers_take_turns_and_batch_comes_later(open_pool: OpenPool) -> None:
    async with open_pool(slots=1) as h:
        order: list[str] = []

        async def ask(name: str, need: Need) -> None:
            async with h.pool.lease(model(), need):
                order.append(name)

        async with h.pool.lease(model(), Need()):
            waiting = []
            for name, need in [
                ("batch", Need(flow="z", priority=Priority.BATCH)),
                ("greedy1", Need(flow="greedy")),
                ("greedy2", Need(flow="greedy")),
                ("modest", Need(flow="modest")),
            ]:
                waiting.append(asyncio.create_task(ask(name, need)))
                await h.until(lambda: h.view().queued == len(waiting))
        await asyncio.gather(*waiting)
        assert order == ["greedy1", "modest", "greedy2", "batch"]


async def test_a_thousand_cancelled_leases_leave_no_slot_taken(open_pool: OpenPool) -> None:
    async with open_pool(slots=2, max_queue=2000) as h:
        await h.pool.load(model())
        tasks = [asyncio.create_task(h.ask(model(), hold="/never")) for _ in range(1000)]
        await h.until(lambda: h.view().busy == 2 and h.view().queued == 998)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert (h.view().busy, h.view().queued) == (0, 0)
        async with h.pool.lease(model(), Need(slots=0)) as upstream:
            await until_active(upstream, 0)
