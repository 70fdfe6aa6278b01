"""The life of workers: load, share, evict, expire, die, drain. Every worker here is a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from backends.workers.pool import Need, Priority, WorkerState
from catalog.errors import (
    ConfigurationError,
    Draining,
    EngineMissing,
    ModelUnavailable,
    QueueFull,
    WorkerFailed,
)
from tests.backends.workers.conftest import MIB, OpenPool, client, model, stats, until_active

# ---- loading


async def test_fifty_leases_of_a_model_that_is_not_loaded_share_one_load(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        answers = await asyncio.gather(*(h.ask(model(start_delay=0.2)) for _ in range(50)))
        assert set(answers) == {"m:0 m:1 m:2 m:3 "}
        assert h.witness.loads == ["m"]
        assert h.view().load_seconds >= 0.2


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


async def test_a_load_that_nobody_waits_for_any_more_is_cancelled(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        row = model(start_delay=600)
        waiting = [asyncio.create_task(h.ask(row)) for _ in range(3)]
        await h.until(lambda: bool(h.pool.snapshot().workers) and h.view().pid is not None)
        process = psutil.Process(h.view().pid)
        waiting[0].cancel()
        waiting[1].cancel()
        await asyncio.wait(waiting[:2])
        assert h.view().state is WorkerState.STARTING, "one still waits"
        waiting[2].cancel()
        await h.until_state(WorkerState.STOPPED)
        assert not process.is_running()
        assert h.pool.snapshot().devices[0].used == 0


async def test_load_returns_when_ready_and_takes_no_slot(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        view = await h.pool.load(model())
        assert (view.state, view.busy, view.queued) == (WorkerState.READY, 0, 0)
        assert await h.pool.unload("m")
        assert h.view().state is WorkerState.STOPPED
        assert not await h.pool.unload("m")
        assert not await h.pool.unload("never heard of")


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


# ---- failing to load


async def test_a_model_that_is_not_pulled_says_so(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        h.store.absent.add("m")
        with pytest.raises(ModelUnavailable, match="not pulled"):
            await h.ask(model())
        h.store.absent.clear()
        assert await h.ask(model()), "and is tried again as soon as it is there"


async def test_a_missing_engine_names_the_extra_to_install(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        with pytest.raises(EngineMissing, match=r"roundhouse\[nowhere\]"):
            await h.ask(model(engine="absent"))
        with pytest.raises(ConfigurationError):
            await h.ask(model("other").model_copy(update={"engine": None}))


@pytest.mark.parametrize("engine", ["fake", "fake-main"])
async def test_a_failed_start_gives_its_reason_to_everyone_who_waited_and_is_not_repeated_at_once(
    open_pool: OpenPool, engine: str
) -> None:
    async with open_pool(cool_down=30) as h:
        row = model(engine=engine, fail_start="bad magic in header")
        errors = await asyncio.gather(*(h.ask(row) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(e, WorkerFailed) and "bad magic in header" in e.message for e in errors)
        assert h.view().state is WorkerState.FAILED
        with pytest.raises(WorkerFailed, match="bad magic") as again:
            await h.ask(row)
        assert again.value.retry_after is not None
        assert 0 < again.value.retry_after <= 30
        assert h.witness.failures == ["m"]
        assert await h.ask(model(engine=engine)), "a row that was put right is tried at once"


async def test_a_process_that_ends_while_loading_is_a_failure_with_its_exit_code(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        with pytest.raises(WorkerFailed, match="exit code 7"):
            await h.ask(model(exit_start=7))
        assert "broken as told" in await h.pool.log("m")


async def test_a_program_that_cannot_be_executed_is_a_failure(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        with pytest.raises(WorkerFailed, match="/no/such/program"):
            await h.ask(model(engine="unstartable"))


async def test_a_start_that_takes_too_long_is_ended(open_pool: OpenPool) -> None:
    async with open_pool(start_timeout=0.3) as h:
        with pytest.raises(WorkerFailed, match=r"not ready within 0\.3 s"):
            await h.ask(model(start_delay=600))
        assert h.view().pid is None


# ---- memory


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
    async with open_pool(placement_timeout=0.2, patience=0.1) as h, h.pool.lease(model("a", mib=800), Need()):
        with pytest.raises(ModelUnavailable, match="busy") as refused:
            await h.ask(model("b", mib=800))
        assert refused.value.retry_after


async def test_a_model_larger_than_the_budget_is_refused_with_the_figures(open_pool: OpenPool) -> None:
    async with open_pool(memory={"cpu": 300 * MIB}) as h:
        with pytest.raises(ModelUnavailable, match=r"400 MiB.* 300 MiB"):
            await h.ask(model(mib=400))


async def test_two_models_in_the_memory_of_one_alternate_and_never_answer_for_each_other(
    open_pool: OpenPool,
) -> None:
    async with open_pool(patience=0.05) as h:
        rows = [model("a", mib=800), model("b", mib=800)]

        async def alternate(i: int) -> None:
            for turn in range(4):
                row = rows[(i + turn) % 2]
                assert (await h.ask(row, tokens=1)) == f"{row.id}:0 "

        await asyncio.gather(*(alternate(i) for i in range(8)))
        assert h.pool.snapshot().devices[0].used <= 1000 * MIB


async def test_a_load_is_not_given_up_for_another_that_waits_however_short_its_patience(
    open_pool: OpenPool,
) -> None:
    async with open_pool(patience=0.0) as h, asyncio.timeout(30):
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
    async with open_pool(patience=300, placement_timeout=3600, start_timeout=3600) as h:
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
    async with open_pool(patience=0.1) as h:
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


# ---- time


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


async def test_a_model_in_use_does_not_expire(open_pool: OpenPool) -> None:
    async with open_pool(keep_alive=300) as h:
        async with h.pool.lease(model(), Need()) as upstream:
            await h.time.skip(1000)
            assert await stats(upstream)
            assert h.view().state is WorkerState.READY
        await h.time.skip(200)
        assert h.view().state is WorkerState.READY, "its time begins when it is used no more"
        assert h.witness.deaths == h.witness.unloads == []


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


# ---- the queue


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


# ---- the end


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


# ---- what a worker can see, and who can see it


async def test_the_sockets_folder_is_private_and_gone_afterwards(open_pool: OpenPool) -> None:
    async with open_pool() as h, h.pool.lease(model(), Need()) as upstream:
        socket = Path(upstream.uds)
        assert len(str(socket)) < 108
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not socket.parent.exists()


async def test_a_worker_answers_only_its_own_key(open_pool: OpenPool) -> None:
    async with open_pool() as h, h.pool.lease(model(), Need()) as upstream:
        async with client(upstream) as http:
            refused = await http.post("/chat/completions", json={}, headers={"Authorization": "Bearer other"})
        assert refused.status_code == 401
        assert upstream.api_key not in repr(upstream)
        assert upstream.api_key not in " ".join(psutil.Process(h.view().pid).cmdline())


async def test_a_workers_environment_holds_no_secrets(open_pool: OpenPool) -> None:
    secrets = {"OPENAI_API_KEY": "sk-secret", "VLLM_API_KEY": "x", "HF_TOKEN": "y", "MY_VAR": "z"}
    environment = {**os.environ, **secrets}
    async with open_pool(environment=environment) as h:
        await h.pool.load(model())
        seen = psutil.Process(h.view().pid).environ()
        assert not set(secrets) & set(seen)
        assert seen["PATH"] == os.environ["PATH"]
        assert seen["OMP_WAIT_POLICY"] == "passive"


async def test_the_log_is_there_after_the_worker_is_gone(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        await h.ask(model())
        os.kill(h.view().pid, signal.SIGKILL)
        await h.until(lambda: h.view().pid is None)
        assert await h.pool.log("m", lines=1) == "fake worker of m listens\n"
        assert await h.pool.log("never heard of") == ""
