"""The end of workers: idle time, unloading, death, and draining."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from backends.queueing import Need
from backends.workers.pool import WorkerState
from catalog.errors import (
    Draining,
    WorkerFailed,
)
from tests.backends.workers.conftest import OpenPool, client, model, stats

# ---- idle time


async def test_an_idle_model_stops_after_its_time(open_pool: OpenPool) -> None:
    async with open_pool(keep_alive=300) as h:
        await h.ask(model())
        assert h.view().expires_at - h.view().last_used == pytest.approx(300)
        await h.time.skip(200)
        assert h.view().state is WorkerState.READY
        await h.time.skip(200)
        await h.until_state(WorkerState.STOPPED)
        assert h.witness.unloads == ["m"]
        assert await h.ask(model()), "and starts again when it is wanted"


async def test_the_row_says_how_long_and_a_caller_may_say_otherwise(open_pool: OpenPool) -> None:
    async with open_pool(keep_alive=0.05) as h:
        row = model(keep_alive=300)
        await h.ask(row)
        assert h.view().expires_at - h.view().last_used == pytest.approx(300)
        await h.pool.load(row, keep_alive=-1)
        assert h.view().expires_at is None, "for ever"
        await h.pool.load(row, keep_alive=0)
        await h.until_state(WorkerState.STOPPED)


async def test_the_idle_time_that_a_caller_sets_ends_with_the_process(open_pool: OpenPool) -> None:
    async with open_pool(keep_alive=300) as h:
        h.pool.keep("m", 7)
        await h.ask(model())
        assert h.view().expires_at - h.view().last_used == pytest.approx(300), "nothing was loaded to keep"
        async with h.pool.lease(model(), Need()):
            h.pool.keep("m", 0)
            assert h.view().state is WorkerState.READY, "its present call goes on"
        await h.until_state(WorkerState.STOPPED)
        await h.ask(model())
        assert h.view().expires_at - h.view().last_used == pytest.approx(300)
        h.pool.keep("m", -1)
        assert h.view().expires_at is None


async def test_a_model_in_use_does_not_expire(open_pool: OpenPool) -> None:
    async with open_pool(keep_alive=300) as h:
        async with h.pool.lease(model(), Need()) as upstream:
            await h.time.skip(1000)
            assert await stats(upstream)
            assert h.view().state is WorkerState.READY
        await h.time.skip(200)
        assert h.view().state is WorkerState.READY, "its time begins when it is used no more"
        assert h.witness.deaths == h.witness.unloads == []


# ---- unloading


async def test_unloading_waits_for_those_who_use_it(open_pool: OpenPool, tmp_path: Path) -> None:
    async with open_pool() as h:
        go = tmp_path / "go"
        answer = asyncio.create_task(h.ask(model(), hold=str(go)))
        await h.until(lambda: bool(h.pool.snapshot().workers) and h.view().busy == 1)
        unloading = asyncio.create_task(h.pool.unload("m"))
        await h.until_state(WorkerState.DRAINING)
        assert not unloading.done()
        go.touch()
        assert await unloading
        assert await answer, "not cut off"


async def test_a_forced_unload_ends_a_worker_in_use_also_one_that_is_draining(open_pool: OpenPool) -> None:
    async with open_pool(stop_grace=600) as h:
        for draining in (False, True):
            stream = asyncio.create_task(h.ask(model(ignore_term=True), tokens=10**6, interval=0.01, stream=True))
            await h.until(lambda: bool(h.pool.snapshot().workers) and h.view().busy == 1)
            waiting = asyncio.create_task(h.pool.unload("m")) if draining else None
            if waiting is not None:
                await h.until_state(WorkerState.DRAINING)
            async with asyncio.timeout(30):
                assert await h.pool.unload("m", force=True)
            with pytest.raises(httpx.HTTPError):
                await stream
            assert waiting is None or await waiting
            assert h.view().pid is None
        assert h.witness.deaths == [], "it was wanted"
        assert await h.ask(model()), "and starts again when it is wanted"


async def test_a_changed_row_is_a_new_worker_and_cuts_nobody_off(open_pool: OpenPool, tmp_path: Path) -> None:
    async with open_pool() as h:
        go = tmp_path / "go"
        old = asyncio.create_task(h.ask(model(text="old "), hold=str(go)))
        await h.until(lambda: bool(h.pool.snapshot().workers) and h.view().busy == 1)
        new = asyncio.create_task(h.ask(model(text="new ")))
        await h.until_state(WorkerState.DRAINING)
        go.touch()
        assert await new == "new new new new "
        assert await old == "old old old old "


# ---- death


async def test_a_killed_worker_breaks_its_streams_and_the_next_request_succeeds(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        row = model()

        async def stream_and_kill() -> None:
            async with h.pool.lease(row, Need()) as upstream, client(upstream) as http:
                body = {"stream": True, "fake": {"tokens": 1_000_000, "interval": 0.01}}
                async with http.stream("POST", "/chat/completions", json=body) as answer:
                    lines = answer.aiter_lines()
                    await anext(lines)
                    os.kill(h.view().pid, signal.SIGKILL)
                    async for _ in lines:
                        pass

        for turn in range(5):
            with pytest.raises(httpx.RemoteProtocolError):
                await stream_and_kill()
            assert await h.ask(row) == "m:0 m:1 m:2 m:3 "
            assert h.view().restarts == turn + 1
        assert h.witness.deaths == ["m"] * 5


async def test_those_who_wait_in_the_queue_are_served_by_the_next_process(open_pool: OpenPool) -> None:
    async with open_pool(slots=1) as h:
        row = model()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(h.pool.lease(row, Need()))
            waiting = [asyncio.create_task(h.ask(row)) for _ in range(5)]
            await h.until(lambda: h.view().queued == 5)
            os.kill(h.view().pid, signal.SIGKILL)
            assert await asyncio.gather(*waiting) == ["m:0 m:1 m:2 m:3 "] * 5


async def test_a_worker_that_only_dies_is_given_up_for_a_while(open_pool: OpenPool) -> None:
    async with open_pool(crash_limit=3, cool_down=60) as h:
        row = model()

        async def die() -> None:
            async with h.pool.lease(row, Need()) as upstream, client(upstream) as http:
                await http.post("/chat/completions", json={"stream": True, "fake": {"die_at": 0}})

        for _ in range(3):
            with pytest.raises(httpx.HTTPError):
                await die()
            await h.until(lambda: h.view().state is not WorkerState.READY)
        with pytest.raises(WorkerFailed, match=r"died 3 times in a row, at last killed by SIGKILL"):
            await die()
        await h.time.skip(30)
        with pytest.raises(WorkerFailed):
            await h.ask(row)
        await h.time.skip(31)
        assert await h.ask(row)


# ---- draining


async def test_draining_lets_those_in_use_and_in_the_queue_finish_and_takes_nobody_new(
    open_pool: OpenPool, tmp_path: Path
) -> None:
    async with open_pool(slots=1) as h:
        go = tmp_path / "go"
        running = [asyncio.create_task(h.ask(model(), hold=str(go))) for _ in range(3)]
        await h.until(lambda: bool(h.pool.snapshot().workers) and h.view().busy == 1)
        draining = asyncio.create_task(h.pool.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Draining) as refused:
            await h.ask(model())
        assert refused.value.retry_after
        go.touch()
        assert await asyncio.gather(*running) == ["m:0 m:1 m:2 m:3 "] * 3
        await draining
        assert h.view().state is WorkerState.STOPPED


async def test_past_the_deadline_a_drain_ends_what_is_left(open_pool: OpenPool) -> None:
    async with open_pool(slots=1) as h:
        running = asyncio.create_task(h.ask(model(), delay=60))
        await h.until(lambda: bool(h.pool.snapshot().workers) and h.view().busy == 1)
        queued = asyncio.create_task(h.ask(model()))
        await h.until(lambda: h.view().queued == 1)
        async with asyncio.timeout(30):
            await h.pool.drain(0.1)
        with pytest.raises(httpx.HTTPError):
            await running
        with pytest.raises(Draining):
            await queued


async def test_a_worker_that_ignores_sigterm_is_killed(open_pool: OpenPool) -> None:
    async with open_pool(stop_grace=0.2) as h:
        await h.pool.load(model(ignore_term=True))
        process = psutil.Process(h.view().pid)
        async with asyncio.timeout(30):
            await h.pool.unload("m")
        assert not process.is_running()


async def test_what_a_worker_started_ends_with_it(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        row = model(engine="fake-children", child=True)
        async with h.pool.lease(row, Need()) as upstream:
            child = psutil.Process((await stats(upstream))["child"])
        os.kill(h.view().pid, signal.SIGKILL)
        await h.until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
