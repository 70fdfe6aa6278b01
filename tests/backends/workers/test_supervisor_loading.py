"""Loading of workers: shared by waiting requests, cancelled without any, and failing with a reason."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from backends.workers.pool import WorkerState
from backends.workers.process import explain_crash
from catalog.errors import (
    ConfigurationError,
    EngineMissing,
    ModelUnavailable,
    WorkerFailed,
)
from tests.backends.workers.conftest import OpenPool, model


async def test_fifty_leases_of_a_model_that_is_not_loaded_share_one_load(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        answers = await asyncio.gather(*(h.ask(model(start_delay=0.2)) for _ in range(50)))
        assert set(answers) == {"m:0 m:1 m:2 m:3 "}
        assert h.witness.loads == ["m"]
        assert h.view().load_seconds >= 0.2


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


# ---- failures


async def test_a_model_that_is_not_pulled_says_so(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        h.store.absent.add("m")
        with pytest.raises(ModelUnavailable, match="not pulled"):
            await h.ask(model())
        h.store.absent.clear()
        assert await h.ask(model()), "and is tried again as soon as it is there"


async def test_a_missing_engine_names_the_extra_to_install(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        with pytest.raises(EngineMissing, match=r"pip install .*\[nowhere\]"):
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


async def test_the_cause_of_a_crash_of_native_code_is_named(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        with pytest.raises(WorkerFailed) as failed:
            await h.pool.load(model(crash_start="GGML_ASSERT(n_head > 0) failed"))
        assert "killed by SIGSEGV: its native code crashed" in failed.value.message
        assert "header or chat template" in failed.value.message
        assert "(GGML_ASSERT(n_head > 0) failed)" in failed.value.message


def test_only_a_crash_is_explained() -> None:
    assert explain_crash("killed by SIGKILL", "what():  x") == "killed by SIGKILL"
    assert explain_crash("exit code 1", "") == "exit code 1"
    assert "(what():  bad_alloc)" in explain_crash("killed by SIGABRT", "terminate called\n  what():  bad_alloc")
    assert "processor lacks an instruction" in explain_crash("killed by SIGILL", "")
