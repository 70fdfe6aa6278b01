"""Options of one load take the place of the row's, until the model is unloaded or loaded with others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from backends.workers.pool import WorkerState
from catalog.errors import WorkerFailed
from tests.backends.workers.conftest import OpenPool, model


async def test_options_of_a_load_hold_until_it_is_unloaded(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        row = model(text="own {i} ", tokens=1)
        view = await h.pool.load(row, options={"text": "chosen {i} "})
        assert view.options == {"text": "chosen {i} ", "tokens": 1}
        assert await h.ask(row) == "chosen 0 "
        assert await h.ask(row) == "chosen 0 ", "a lease with the row itself changes nothing"
        assert h.witness.loads == ["m"]
        await h.pool.unload("m")
        assert await h.ask(row) == "own 0 "


async def test_a_load_without_options_keeps_those_in_force_and_another_replaces_them(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        row = model(text="own ", tokens=1)
        await h.pool.load(row, options={"text": "first "})
        pid = h.view().pid
        await h.pool.load(row)
        assert (h.view().pid, await h.ask(row)) == (pid, "first ")
        await h.pool.load(row, options={"tokens": 2})
        assert await h.ask(row) == "own own "
        await h.pool.load(row, options={})
        assert await h.ask(row) == "own "


async def test_a_busy_worker_finishes_before_it_is_loaded_with_other_options(
    open_pool: OpenPool, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    async with open_pool() as h:
        row = model(text="own ", tokens=1)
        await h.pool.load(row)
        asked = asyncio.create_task(h.ask(row, hold=str(go)))
        await h.until(lambda: h.view().busy == 1)
        loading = asyncio.create_task(h.pool.load(row, keep_alive=7, options={"text": "new "}))
        await h.until_state(WorkerState.DRAINING)
        go.touch()
        assert await asked == "own "
        await loading
        assert await h.ask(row) == "new "
        assert h.view().expires_at == pytest.approx(h.view().last_used + 7)


async def test_force_ends_the_calls_of_a_worker_that_is_loaded_otherwise(
    open_pool: OpenPool, tmp_path: Path
) -> None:
    async with open_pool() as h:
        row = model(text="own ", tokens=1)
        await h.pool.load(row)
        asked = asyncio.create_task(h.ask(row, hold=str(tmp_path / "never")))
        await h.until(lambda: h.view().busy == 1)
        await h.pool.load(row, options={"text": "new "}, force=True)
        with pytest.raises(httpx.HTTPError):
            await asked
        assert await h.ask(row) == "new "


async def test_options_with_which_it_does_not_start_are_dropped(open_pool: OpenPool) -> None:
    async with open_pool(cool_down=0) as h:
        row = model(text="own ", tokens=1)
        with pytest.raises(WorkerFailed, match="too large"):
            await h.pool.load(row, options={"fail_start": "too large"})
        assert await h.ask(row) == "own "
