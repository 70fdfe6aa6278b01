"""Blocking generators in threads: order, bounds, and cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator

import pytest

from backends.workers.program.threads import CancelSignal, ThreadRunner


@pytest.fixture
async def runner() -> AsyncIterator[ThreadRunner]:
    made = ThreadRunner(2)
    yield made
    made.close()


async def test_what_the_work_yields_comes_in_order(runner: ThreadRunner) -> None:
    def work(_: CancelSignal) -> Generator[int, None, None]:
        yield from range(5)

    assert [item async for item in runner.stream(work)] == [0, 1, 2, 3, 4]
    assert runner.stats.done == 1


async def test_an_error_of_the_work_is_the_callers(runner: ThreadRunner) -> None:
    def work(_: CancelSignal) -> Generator[int, None, None]:
        yield 1
        raise ValueError("broken")

    items = runner.stream(work)
    assert await anext(items) == 1
    with pytest.raises(ValueError, match="broken"):
        await anext(items)
    assert (runner.stats.failed, runner.stats.active) == (1, 0)


async def test_work_ends_at_its_next_check_when_the_caller_leaves(runner: ThreadRunner) -> None:
    blocked, go, ended = threading.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(cancel: CancelSignal) -> Generator[int, None, None]:
        try:
            yield 1
            blocked.set()
            go.wait(10)
            cancel.check()
            yield 2
        finally:
            loop.call_soon_threadsafe(ended.set)

    items = runner.stream(work)
    assert await anext(items) == 1
    waiting = asyncio.ensure_future(anext(items))
    await asyncio.to_thread(blocked.wait, 10)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert runner.stats.active == 1, "the thread still works, so the slot is not free"
    go.set()
    await asyncio.wait_for(ended.wait(), 10)
    while runner.stats.active:
        await asyncio.sleep(0)
    assert runner.stats.cancelled == 1


async def test_no_more_than_the_slots_run_at_once(runner: ThreadRunner) -> None:
    go = threading.Event()

    def work(_: CancelSignal) -> Generator[int, None, None]:
        go.wait(10)
        yield 1

    async def ask() -> int:
        return sum([item async for item in runner.stream(work)])

    asking = [asyncio.create_task(ask()) for _ in range(5)]
    while runner.stats.active < 2:
        await asyncio.sleep(0)
    assert (runner.stats.active, runner.stats.queued) == (2, 3)
    go.set()
    assert await asyncio.gather(*asking) == [1] * 5


async def test_with_fewer_threads_than_slots_each_generator_takes_a_step_in_turn() -> None:
    runner = ThreadRunner(2, threads=1)
    took: list[str] = []
    held, go = threading.Event(), threading.Event()

    def work(name: str, steps: int) -> Generator[None, None, None]:
        for _ in range(steps):
            if name == "long":
                held.set()
                go.wait(10)
            took.append(name)
            yield

    async def run(name: str, steps: int) -> None:
        async for _ in runner.stream(lambda _: work(name, steps)):
            pass

    long = asyncio.create_task(run("long", 20))
    await asyncio.to_thread(held.wait, 10)
    short = asyncio.create_task(run("short", 2))
    while runner.stats.active < 2:
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(long, short)
    assert took.index("short") <= 2
    assert len(took) - took[::-1].index("short") <= 6, "the short one ends long before the long one"
    runner.close()
