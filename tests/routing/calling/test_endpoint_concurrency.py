"""An endpoint with a bound on concurrent calls gets no more than that; the others wait or go elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from catalog.errors import (
    QueueFull,
    UpstreamError,
)
from routing.outcomes import Result
from tests.routing.calling.scripted import GOOD, Stand, local, remote


async def test_an_endpoint_that_takes_one_call_at_a_time_is_asked_one_at_a_time(stand: Stand) -> None:
    stand.backend.scripts = {"m": GOOD}
    stand.will_try(remote("m", "small"))
    async with stand.dispatcher.open(stand.job()) as first:
        others = [asyncio.create_task(stand.ask()) for _ in range(4)]
        await asyncio.wait(others[2:], timeout=30)
        assert len(stand.backend.calls) == 1
        assert isinstance(others[2].exception(), QueueFull), "two may wait"
        assert isinstance(others[3].exception(), QueueFull)
        others[0].cancel()
        assert [item async for item in first]
    assert (await others[1])[0] == "small/m"
    assert stand.results[:2] == [("small/m", Result.REJECTED)] * 2
    assert sorted(stand.results[2:]) == [("small/m", Result.CANCELLED)] + [("small/m", Result.SUCCESS)] * 2


async def test_where_turns_are_all_taken_another_candidate_answers(stand: Stand) -> None:
    stand.backend.scripts = {"m": GOOD, "b": GOOD}
    stand.will_try(remote("m", "small"))
    async with stand.dispatcher.open(stand.job()) as first:
        waiting = [asyncio.create_task(stand.ask()) for _ in range(2)]
        await asyncio.sleep(0)
        stand.will_try(remote("m", "small"), local("b"))
        async with asyncio.timeout(30):
            assert (await stand.ask())[0] == "b"
        assert [item async for item in first]
    assert [name for name, _ in await asyncio.gather(*waiting)] == ["small/m"] * 2


async def test_a_call_that_fails_gives_its_turn_back(stand: Stand) -> None:
    stand.backend.scripts = {"m": (UpstreamError("no"),)}
    stand.will_try(remote("m", "small"))
    for _ in range(3):
        with pytest.raises(UpstreamError):
            await stand.ask()
    stand.backend.scripts = {"m": GOOD}
    assert (await stand.ask())[0] == "small/m"
