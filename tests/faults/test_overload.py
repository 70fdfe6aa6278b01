"""Row 4: at ten times the capacity, refusals are quick and well-formed, and admitted requests are not slowed.

The queue of the worker holds an eighth of its slots, so that an admitted request waits for two of sixteen answers
to end. The load comes from a process of its own, on schedule, and latencies are measured by the caller; gateway,
worker and load run with real-time priority where that is allowed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.figures import Figures, count
from tests.faults.serving import (
    FIRST,
    ROOT,
    Gateway,
    Told,
    ask,
    chat,
    client,
    percentile,
    serving,
    soon,
    worker_row,
)

SLOTS = 16
SECONDS = 0.4
"""Time of an answer in the worker; the capacity is ``SLOTS / SECONDS`` answers per second."""
KEYS = {"CALLERS": "calm-key,busy-key", "ADMIN": "admin-key"}
CALM, BUSY = {"authorization": "Bearer calm-key"}, {"authorization": "Bearer busy-key"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    settings: dict[str, Any] = {
        "workers": {"max_queue": SLOTS // 8},
        "model": [worker_row("m", tmp_path, slots=SLOTS)],
    }
    with serving(tmp_path, wrapped=FIRST, **settings) as running:
        yield running


def offered(gateway: Gateway, *, rate: float, seconds: float) -> list[dict[str, Any]]:
    """Answers to an open-loop load, which comes from a process of its own."""
    job = {"url": gateway.url, "rate": rate, "seconds": seconds, "delay": SECONDS}
    ended = subprocess.run(
        [*FIRST, sys.executable, "-m", "tests.faults.load"], input=json.dumps(job), capture_output=True, text=True,
        cwd=ROOT, check=True, timeout=seconds + 60,
    )  # fmt: skip
    answers: list[dict[str, Any]] = json.loads(ended.stdout)
    return answers


async def test_ten_times_overload_is_refused_at_once_and_slows_nothing_that_is_admitted(
    gateway: Gateway, figures: Figures
) -> None:
    """Latencies are asserted by ``make faults`` with real-time priority, and only noted otherwise."""
    capacity = SLOTS / SECONDS
    async with client(gateway) as session:
        assert (await ask(session, chat("m"))).whole
    calm = await asyncio.to_thread(offered, gateway, rate=0.4 * capacity, seconds=8)
    assert {answer["status"] for answer in calm} == {200}

    seconds = count(12, 60)
    storm = await asyncio.to_thread(offered, gateway, rate=10 * capacity, seconds=seconds)
    await soon(gateway.at_rest, within=10)
    statuses = Counter(answer["status"] for answer in storm)
    assert statuses.keys() <= {200, 429, 503}
    assert all(int(answer["retry_after"]) >= 1 for answer in storm if answer["status"] != 200)
    logged = Counter(line["status"] for line in gateway.log("request") if line["path"] == "/v1/chat/completions")
    assert logged == statuses + Counter({200: 1 + len(calm)}), "what was logged is not what was answered"
    share = len(storm) / seconds / capacity
    figures.note(4, "overload: offered, of what can be answered", bound="10 times", measured=f"{share:.1f} times")
    assert share >= 9
    figures.at_least(4, "overload: answered a second", statuses[200] / seconds, 0.7 * capacity, "/s")

    refused, admitted, unloaded = (
        [answer["seconds"] for answer in answers if (answer["status"] == 200) is good]
        for answers, good in ((storm, False), (storm, True), (calm, True))
    )
    figures.note(4, "overload: refusals, p50", bound="", measured=f"{1000 * percentile(refused, 0.5):.1f} ms")
    strict = count(0, 1) and FIRST
    for what, measured, bound, unit in (
        ("overload: refusals, p99", 1000 * percentile(refused, 0.99), 20, "ms"),
        ("overload: admitted p99, of the unloaded p99",
         percentile(admitted, 0.99) / percentile(unloaded, 0.99), 1.5, "times"),
    ):  # fmt: skip
        if strict:
            figures.at_most(4, what, measured, bound, unit)
        else:
            figures.note(4, what, bound=f"{bound} {unit} in the full run", measured=f"{measured:.4g} {unit}")


async def test_a_key_that_floods_takes_nothing_from_one_that_does_not(tmp_path: Path, figures: Figures) -> None:
    settings: dict[str, Any] = {
        "workers": {"max_queue": 8},
        "model": [worker_row("m", tmp_path, slots=4)],
        "api_keys_env": "CALLERS",
    }
    with serving(tmp_path, environment=KEYS, **settings) as gateway:
        async with client(gateway) as session:
            assert (await ask(session, chat("m"), headers=CALM)).whole
            flooding = True

            async def flood() -> Counter[int]:
                statuses: Counter[int] = Counter()
                while flooding:
                    told = await ask(session, chat("m", delay=0.1), headers=BUSY)
                    statuses[told.status] += 1
                    if told.status != 200:
                        await asyncio.sleep(0.05)
                return statuses

            floods = [asyncio.create_task(flood()) for _ in range(30)]
            await soon(lambda: len(gateway.journal("began")) > 20, within=10)
            answers = [await ask(session, chat("m", delay=0.1), headers=CALM) for _ in range(count(30, 100))]
            flooding = False
            busy = sum((await asyncio.gather(*floods)), Counter())
    assert busy.keys() <= {200, 429}
    assert busy[429] > 0
    answered = sum(answer.whole for answer in answers)
    figures.at_least(4, "one key floods: another key's requests answered", 100 * answered / len(answers), 100, "%")


async def test_interactive_requests_go_before_batch_and_batch_is_not_starved(
    tmp_path: Path, figures: Figures
) -> None:
    row = worker_row("m", tmp_path, slots=1)
    with serving(tmp_path, model=[row], workers={"max_queue": 40}) as gateway:
        async with client(gateway) as session:
            holding = asyncio.create_task(ask(session, chat("m", delay=2)))
            await soon(lambda: gateway.journal("began"), within=10)

            async def put(kind: str, number: int) -> Told:
                workload = {"workload": "batch" if kind == "batch" else "interactive"}
                return await ask(session, chat("m", name=kind, routing=workload))

            tasks = [asyncio.create_task(put("batch", number)) for number in range(20)]
            await soon(lambda: gateway.workers()[0]["queued"] == 20, within=10)
            tasks += [asyncio.create_task(put("interactive", number)) for number in range(20)]
            await soon(lambda: gateway.workers()[0]["queued"] == 40, within=10)
            # The queue is full and half of it is batch: an interactive request takes the place of a batch one.
            late = asyncio.create_task(put("late", 0))
            assert all(answer.status in (200, 429) for answer in await asyncio.gather(*tasks))
            assert (await late).whole
            assert (await holding).whole
    order = [line["name"] for line in gateway.journal("began")][1:]
    first_half = Counter(order[: len(order) // 2])
    assert first_half["batch"] > 0
    figures.at_most(
        4,
        "interactive and batch wait: share of batch in the first half",
        first_half["batch"] / (len(order) // 2),
        0.25,
    )
