"""Row 5: a failing replica is soon avoided and soon used again; when all fail, retries stay bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import NO_FAULT, Fault
from tests.faults.figures import Figures, count
from tests.faults.serving import Gateway, ask, chat, client, serving, upstream_row

DOWN = Fault(status=503)


@asynccontextmanager
async def replicas(folder: Path, **settings: Any) -> AsyncIterator[tuple[Gateway, FakeOpenAI, FakeOpenAI]]:
    """Two upstreams that serve the model ``twins``."""
    async with FakeOpenAI() as left, FakeOpenAI() as right:
        rows = [upstream_row(name, name, aliases=["twins"]) for name in ("left", "right")]
        endpoints = [
            {"id": "left", "base_url": left.base_url},
            {"id": "right", "base_url": right.base_url},
        ]
        with serving(folder, model=rows, endpoint=endpoints, **settings) as gateway:
            yield gateway, left, right


async def test_a_replica_that_always_fails_is_out_soon_and_back_soon_after_it_heals(
    tmp_path: Path, figures: Figures
) -> None:
    total = count(400, 3000)
    async with replicas(tmp_path) as (gateway, left, right), client(gateway) as session:
        left.fault = DOWN
        began = time.monotonic()
        served = 0
        first_burst = 0
        for number in range(total):
            served += (await ask(session, chat("twins", stream=number % 2 == 0))).whole
            if time.monotonic() - began < 1.9:
                first_burst = len(left.calls)
        assert len(right.calls) >= served
        figures.at_most(5, "one of two replicas fails: calls of it before it is out", first_burst, 5)
        figures.at_least(5, f"one of two replicas fails: answered of {total}", 100 * served / total, 99.9, "%")

        left.fault = NO_FAULT
        healed = time.monotonic()
        known = len(left.calls)
        while len(left.calls) < known + 3:
            assert (await ask(session, chat("twins"))).whole
            assert time.monotonic() - healed < 60, "it never came back"
            await asyncio.sleep(0.02)
        back = time.monotonic() - healed
        figures.at_most(5, "until a healed replica answers again", back, 30, "s")


async def test_with_every_upstream_down_calls_stay_within_a_fifth_more_than_was_asked(
    tmp_path: Path, figures: Figures
) -> None:
    total = count(500, 3000)
    async with replicas(tmp_path) as (gateway, left, right), client(gateway) as session:
        left.fault = right.fault = DOWN
        for _ in range(total // 25):
            answers = await asyncio.gather(*(ask(session, chat("twins")) for _ in range(25)))
            assert {answer.status for answer in answers} <= {502, 503}
            assert all("retry-after" in answer.headers for answer in answers if answer.status == 503)
        calls = len(left.calls) + len(right.calls)
    figures.at_most(5, "every upstream down: calls per request", calls / total, 1.2)


async def test_without_breakers_the_retry_budget_alone_holds_the_calls_down(
    tmp_path: Path, figures: Figures
) -> None:
    never = {"consecutive_failures": 10**9, "window_minimum": 10**9}
    async with replicas(tmp_path, breakers=never) as (gateway, left, right), client(gateway) as session:
        left.fault = right.fault = DOWN
        for _ in range(20):
            await asyncio.gather(*(ask(session, chat("twins")) for _ in range(25)))
        calls = len(left.calls) + len(right.calls)
    figures.at_most(5, "every upstream down, breakers off: calls per request", calls / 500, 1.2)
