"""A caller that leaves at any moment closes its upstream, gives its leases back and leaves one outcome."""

from __future__ import annotations

import asyncio

import pytest

from routing.outcomes import Result
from tests.routing.calling.scripted import GOOD, ROLE, Stand, local, remote, text


async def test_a_caller_who_leaves_while_waiting_leaves_nothing_behind(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, None)}
    stand.will_try(local("a"), local("b"))
    task = asyncio.create_task(stand.ask())
    while not stand.backend.open:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stand.dispatcher.settle()
    assert stand.results == [("a", Result.CANCELLED)]
    assert stand.pool.leased == 0


async def test_a_caller_who_leaves_mid_stream_closes_the_upstream(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("x"), None)}
    stand.will_try(local("a"))
    async with stand.dispatcher.open(stand.job()) as answer:
        async for item in answer:
            if item["choices"][0]["delta"].get("content"):
                break
    await stand.dispatcher.settle()
    assert stand.backend.open == 0
    assert stand.results == [("a", Result.CANCELLED)]


async def test_cancelling_again_and_again_still_gives_everything_back(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("x"), None)}
    stand.will_try(local("a"))

    async def read() -> None:
        async with stand.dispatcher.open(stand.job()) as answer:
            async for _ in answer:
                pass

    task = asyncio.create_task(read())
    while not stand.backend.open:
        await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    await stand.dispatcher.settle()
    assert stand.results == [("a", Result.CANCELLED)]
    assert stand.pool.leased == 0


async def test_a_whole_remote_answer_is_closed_without_a_task_of_its_own(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: list[object] = []

    class Noting(set[object]):
        def add(self, task: object) -> None:
            spawned.append(task)
            super().add(task)

    monkeypatch.setattr(stand.dispatcher, "_closing", Noting())
    stand.backend.scripts = {"big": GOOD}
    stand.will_try(remote("big", "lan"))
    _, items = await stand.ask()
    assert len(items) == len(GOOD)
    assert spawned == []
    assert stand.results == [("lan/big", Result.SUCCESS)]
    assert stand.backend.open == 0


async def test_a_caller_cancelled_as_the_last_item_came_still_leaves_one_outcome(stand: Stand) -> None:
    stand.backend.scripts = {"big": GOOD}
    stand.will_try(remote("big", "lan"))

    async def read() -> None:
        async with stand.dispatcher.open(stand.job()) as answer:
            async for _ in answer:
                pass
            task.cancel()

    task = asyncio.create_task(read())
    await asyncio.wait((task,))
    await stand.dispatcher.settle()
    assert stand.results == [("lan/big", Result.SUCCESS)]
    assert stand.traces.get("trace-1") is not None
