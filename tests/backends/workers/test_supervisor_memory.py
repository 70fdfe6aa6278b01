"""Memory of workers: eviction, waiting for busy workers, measurements, and idle workers that keep computing."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from backends.queueing import Need
from backends.workers.pool import WorkerState
from catalog.errors import (
    ModelTemporarilyUnavailable,
    ModelTooLarge,
    WorkerFailed,
)
from tests.backends.workers.conftest import MIB, OpenPool, client, model


async def test_the_least_recently_used_idle_model_is_evicted(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        for name in ("a", "b"):
            await h.ask(model(name, mib=400))
        await h.ask(model("a", mib=400))
        await h.ask(model("c", mib=400))
        assert h.witness.evictions == ["b"]
        assert h.view("a").state is WorkerState.READY
        assert h.pool.snapshot().devices[0].used == 800 * MIB


async def test_a_busy_model_is_never_evicted_and_the_other_waits_for_it(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        async with h.pool.lease(model("a", mib=800), Need()) as upstream:
            pid = h.view("a").pid
            other = asyncio.create_task(h.ask(model("b", mib=800)))
            await h.until(lambda: any(w.model == "b" and w.queued for w in h.pool.snapshot().workers))
            async with client(upstream) as http:
                assert (await http.get("http://worker/health")).status_code == 200
            assert h.view("a").pid == pid
            assert not other.done()
        assert await other == "b:0 b:1 b:2 b:3 "
        assert h.witness.evictions == ["a"]


async def test_a_model_that_waits_too_long_for_memory_is_unavailable(open_pool: OpenPool) -> None:
    async with open_pool(placement_timeout=0.2, drain_delay=0.1) as h, h.pool.lease(model("a", mib=800), Need()):
        with pytest.raises(ModelTemporarilyUnavailable, match="busy") as refused:
            await h.ask(model("b", mib=800))
        assert refused.value.retry_after


async def test_a_model_larger_than_the_budget_is_refused_with_the_figures(open_pool: OpenPool) -> None:
    async with open_pool(memory={"cpu": 300 * MIB}) as h:
        with pytest.raises(ModelTooLarge, match=r"400 MiB.* 300 MiB"):
            await h.ask(model(mib=400))


async def test_two_models_in_the_memory_of_one_alternate_and_never_answer_for_each_other(
    open_pool: OpenPool,
) -> None:
    async with open_pool(drain_delay=0.05) as h:
        rows = [model("a", mib=800), model("b", mib=800)]

        async def alternate(i: int) -> None:
            for turn in range(4):
                row = rows[(i + turn) % 2]
                assert (await h.ask(row, tokens=1)) == f"{row.id}:0 "

        await asyncio.gather(*(alternate(i) for i in range(8)))
        assert h.pool.snapshot().devices[0].used <= 1000 * MIB


async def test_a_load_is_not_given_up_for_another_that_waits_however_short_its_drain_delay(
    open_pool: OpenPool,
) -> None:
    async with open_pool(drain_delay=0.0) as h, asyncio.timeout(30):
        rows = [model("a", mib=800, start_delay=0.1), model("b", mib=800, start_delay=0.1)]

        async def alternate(i: int) -> None:
            for turn in range(3):
                row = rows[(i + turn) % 2]
                assert (await h.ask(row, tokens=1)) == f"{row.id}:0 "

        await asyncio.gather(*(alternate(i) for i in range(6)))
        assert len(h.witness.loads) <= 18, "each load answered somebody"


async def test_a_worker_that_has_just_become_ready_has_its_time_before_it_makes_room(
    open_pool: OpenPool, tmp_path: Path
) -> None:
    async with open_pool(drain_delay=300, placement_timeout=3600, start_timeout=3600) as h:
        go, used = tmp_path / "go", asyncio.Event()

        async def use() -> None:
            async with h.pool.lease(model("a", mib=800, start_hold=str(go)), Need()):
                await used.wait()

        using = asyncio.create_task(use())
        await h.until(lambda: bool(h.pool.snapshot().workers) and h.view("a").pid is not None)
        other = asyncio.create_task(h.ask(model("b", mib=800), tokens=1))
        await h.until(h.pool._placing.locked)
        await h.time.skip(1000)
        go.touch()
        await h.until(lambda: h.view("a").busy == 1)
        await h.time.skip(200)
        assert h.view("a").state is WorkerState.READY, "however long the other has waited"
        await h.time.skip(200)
        await h.until_state(WorkerState.DRAINING, "a")
        used.set()
        await using
        assert await other == "b:0 "


async def test_what_is_measured_while_a_model_loads_does_not_lower_what_it_will_need(
    open_pool: OpenPool, tmp_path: Path
) -> None:
    measured, samples = 1 * MIB, 0

    def meter(pid: int, device: str) -> int:
        nonlocal samples
        samples += 1
        return measured

    async with open_pool(sample_interval=0.01, meter=meter) as h:
        go = tmp_path / "go"
        loading = asyncio.create_task(h.pool.load(model("a", mib=800, start_hold=str(go))))
        await h.until(lambda: samples >= 3)
        assert h.view("a").state is WorkerState.STARTING
        assert h.pool.snapshot().devices[0].used == 800 * MIB
        go.touch()
        await loading
        measured = 600 * MIB
        await h.until(lambda: h.view("a").memory == 600 * MIB)
        measured = 900 * MIB
        await h.until(lambda: h.view("a").memory == 900 * MIB)


async def test_a_model_in_constant_use_makes_room_for_one_that_waits(open_pool: OpenPool) -> None:
    async with open_pool(drain_delay=0.1) as h:
        done = False

        async def use_it_all_the_time() -> None:
            while not done:
                assert (await h.ask(model("a", mib=800), delay=0.02)).startswith("a:")

        users = [asyncio.create_task(use_it_all_the_time()) for _ in range(4)]
        await h.until(lambda: bool(h.pool.snapshot().workers) and h.view("a").busy > 0)
        assert (await h.ask(model("b", mib=800))).startswith("b:")
        done = True
        await asyncio.gather(*users)


async def test_memory_is_measured_and_the_measure_places_it_the_next_time(open_pool: OpenPool) -> None:
    async with open_pool(sample_interval=0.02) as h:
        await h.pool.load(model(mib=1, hold_mib=64))
        await h.until(lambda: h.view().memory > 64 * MIB)
        measured = h.view().memory
        await h.pool.unload("m")
        assert h.view().memory == 0
        await h.pool.load(model(mib=1, hold_mib=64))
        assert h.view().memory >= measured


async def test_a_worker_that_computes_for_nobody_is_ended_and_one_that_rests_is_not(open_pool: OpenPool) -> None:
    async with open_pool(sample_interval=0.05, runaway=0.3) as h:
        await h.ask(model("calm"))
        await h.ask(model(), spin=True)
        spinning = h.view().pid
        await h.until_state(WorkerState.STOPPED)
        assert h.witness.deaths == ["m"]
        assert await h.ask(model()), "and starts again when it is wanted"
        assert h.view().pid != spinning
        assert h.view("calm").state is WorkerState.READY


async def test_a_loading_worker_that_takes_more_than_is_left_for_it_is_ended_and_the_error_says_so(
    open_pool: OpenPool,
) -> None:
    async with open_pool(stop_grace=60) as h:
        await h.pool.load(model("other", mib=850))
        with pytest.raises(WorkerFailed, match=r"it took \d+ MiB of memory .* more than the 150 MiB left"):
            await h.pool.load(model(mib=50, grow_start=250))
        assert h.view().pid is None
        assert h.view("other").state is WorkerState.READY
        assert h.view().memory == 0


async def test_a_loading_worker_may_take_more_than_its_estimate_where_there_is_room(open_pool: OpenPool) -> None:
    async with open_pool(start_timeout=2) as h:
        with pytest.raises(WorkerFailed, match="not ready within 2 s"):
            await h.pool.load(model(mib=1, grow_start=150))


async def test_a_measurement_that_began_while_a_model_loaded_does_not_lower_what_it_will_need(
    open_pool: OpenPool, tmp_path: Path
) -> None:
    measuring, measured, later = threading.Event(), threading.Event(), 0
    go = tmp_path / "go"

    def meter(pid: int, device: str) -> int:
        nonlocal later
        if not measured.is_set():
            measuring.set()
            measured.wait(30)
            return 1 * MIB
        later += 1
        return 0

    async with open_pool(sample_interval=0.01, meter=meter) as h:
        loading = asyncio.create_task(h.pool.load(model("a", mib=800, start_hold=str(go))))
        await h.until(measuring.is_set)
        go.touch()
        await loading
        measured.set()
        await h.until(lambda: later >= 1)
        assert h.view("a").memory == 800 * MIB
