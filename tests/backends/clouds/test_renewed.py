"""Credentials that expire are renewed once for all calls, in time, and off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from backends.clouds.renewed import PAUSE, Freshness, Renewed
from catalog.errors import UpstreamUnreachable
from tests.loop_time import within


class Source:
    """Makes numbered values; ``go`` holds a renewal, ``freshness`` is that of every value."""

    def __init__(self) -> None:
        self.made = 0
        self.threads: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.fails = False
        self.freshness = Freshness.FRESH

    def __call__(self, last: int | None) -> int:
        self.threads.append(threading.get_ident())
        assert self.go.wait(5)
        if self.fails:
            raise UpstreamUnreachable("no token server")
        self.made += 1
        return self.made


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    made = Source()
    yield made
    made.go.set()


async def settled(renewed: Renewed[int]) -> None:
    """Wait for the renewal in progress, if there is one."""
    task = renewed._renewal
    if task is not None:
        await asyncio.wait([task])
    await asyncio.sleep(0)


async def test_many_calls_share_one_renewal_which_runs_in_a_thread(source: Source) -> None:
    renewed = Renewed(source, lambda _: source.freshness)
    source.go.clear()
    waiting = [asyncio.ensure_future(renewed.get()) for _ in range(50)]
    await asyncio.sleep(0)  # the loop runs although the renewal blocks
    source.go.set()
    assert await asyncio.gather(*waiting) == [1] * 50
    assert source.made == 1
    assert threading.get_ident() not in source.threads


async def test_a_value_that_is_still_valid_is_used_while_the_next_one_is_made(source: Source) -> None:
    renewed = Renewed(source, lambda value: Freshness.STALE if value == 1 else Freshness.FRESH)
    assert await renewed.get() == 1
    source.go.clear()
    assert [await renewed.get() for _ in range(3)] == [1, 1, 1]
    source.go.set()
    await settled(renewed)
    assert await renewed.get() == 2
    assert source.made == 2


async def test_an_expired_value_is_never_used(source: Source) -> None:
    renewed = Renewed(source, lambda value: Freshness.EXPIRED if value == 1 else Freshness.FRESH)
    assert [await renewed.get(), await renewed.get()] == [1, 2]


async def test_a_caller_that_leaves_does_not_end_the_renewal_of_the_others(source: Source) -> None:
    renewed = Renewed(source, lambda _: source.freshness)
    source.go.clear()
    first, second = asyncio.ensure_future(renewed.get()), asyncio.ensure_future(renewed.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    source.go.set()
    assert await second == 1


async def test_a_renewal_that_fails_spoils_no_valid_value_and_is_not_repeated_at_once(source: Source) -> None:
    source.freshness = Freshness.STALE
    renewed = Renewed(source, lambda _: source.freshness)
    assert await renewed.get() == 1
    source.fails = True
    assert await renewed.get() == 1
    await settled(renewed)
    asked = len(source.threads)
    assert await renewed.get() == 1
    assert renewed._renewal is None
    assert len(source.threads) == asked
    renewed._not_before -= PAUSE
    assert await renewed.get() == 1
    await settled(renewed)
    assert len(source.threads) == asked + 1
    source.freshness = Freshness.EXPIRED
    with pytest.raises(UpstreamUnreachable):
        await renewed.get()


async def test_a_value_that_was_refused_is_replaced(source: Source) -> None:
    renewed = Renewed(source, lambda _: source.freshness)
    await renewed.get()
    renewed.forget()
    assert await renewed.get() == 2


async def test_closing_ends_the_wait_for_a_renewal(source: Source) -> None:
    renewed = Renewed(source, lambda _: source.freshness)
    source.go.clear()
    waiting = asyncio.ensure_future(renewed.get())
    await asyncio.sleep(0)
    await within(1.0, renewed.aclose())
    with pytest.raises(asyncio.CancelledError):
        await waiting
