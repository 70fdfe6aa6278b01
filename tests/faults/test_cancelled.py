"""Row 2: a caller that leaves, at any moment, ends the work for its request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.faults.figures import Figures, count
from tests.faults.serving import FIRST, Gateway, ask, chat, client, percentile, serving, soon, worker_row

SLOTS = 16
AT_ONCE = 24


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with serving(tmp_path, wrapped=FIRST, model=[worker_row("m", tmp_path, slots=SLOTS)]) as running:
        yield running


class Leaver:
    """Sends a request, leaves at a chosen moment of the answer, and records when it left."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.session = session
        self.left: dict[str, float] = {}

    async def __call__(self, number: int) -> None:
        moment = ("before", "first", "after")[number % 3]
        stream = number % 2 == 0
        name = f"{moment} {'stream' if stream else 'plain'} {number}"
        timing = {"delay": 30} if moment == "before" else {"tokens": 10_000, "interval": 0.02}
        body = chat("m", stream=stream, name=name, **timing)
        seen = asyncio.Event()
        wanted = 1 if moment == "first" else 4

        def on_event(events: int) -> None:
            if events == wanted:
                seen.set()

        call = asyncio.create_task(ask(self.session, body, on_event=on_event))
        if stream and moment != "before":
            await asyncio.wait_for(seen.wait(), 30)
        else:
            await self._worker_notes("began" if moment == "before" else "first", name)
            await asyncio.sleep(0.06 if moment == "after" else 0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        self.left[name] = time.monotonic()

    async def _worker_notes(self, event: str, name: str) -> None:
        deadline = time.monotonic() + 30
        while not any(line["name"] == name for line in self.gateway.journal(event)[-4 * AT_ONCE :]):
            assert time.monotonic() < deadline, f"the worker never saw {name}"
            await asyncio.sleep(0.02)


async def test_no_cancelled_request_keeps_its_slot_or_its_worker_busy(gateway: Gateway, figures: Figures) -> None:
    total = count(300, 1000)
    async with client(gateway) as session:
        assert (await ask(session, chat("m", name="warm"))).whole
        leave = Leaver(gateway, session)
        numbers = iter(range(total))

        async def leaving() -> None:
            for number in numbers:
                await leave(number)

        await asyncio.gather(*(leaving() for _ in range(AT_ONCE)))
        await soon(lambda: len(gateway.journal("cancelled")) == total, within=5)
        await soon(gateway.at_rest, within=5)
        stopped = {str(line["name"]): line["at"] for line in gateway.journal("cancelled")}
        assert stopped.keys() == leave.left.keys()
        assert len(gateway.journal("began")) == total + 1
        assert [line for line in gateway.journal("done") if line["name"] != "warm"] == []

        # All slots are free again: as many requests as there are slots run at the same time.
        answers = await asyncio.gather(*(ask(session, chat("m", delay=0.3)) for _ in range(SLOTS)))
        assert all(answer.whole for answer in answers)
        assert max(line["active"] for line in gateway.journal("began")[-SLOTS:]) == SLOTS
    waits = [stopped[name] - at for name, at in leave.left.items()]
    figures.note(2, f"{total} cancelled: until the worker stopped, p99", bound="",
                 measured=f"{1000 * percentile(waits, 0.99):.0f} ms")  # fmt: skip
    figures.at_most(2, f"{total} cancelled: until the worker stopped, worst", 1000 * max(waits), 250, "ms")


async def test_a_request_that_leaves_the_queue_leaves_no_trace(gateway: Gateway) -> None:
    async with client(gateway) as session:
        holding = [asyncio.create_task(ask(session, chat("m", delay=30, name="hold"))) for _ in range(SLOTS)]
        await soon(lambda: len(gateway.journal("began")) == SLOTS, within=10)
        waiting = [
            asyncio.create_task(ask(session, chat("m", stream=number % 2 == 0, name="wait")))
            for number in range(50)
        ]
        await soon(lambda: gateway.workers()[0]["queued"] == 50, within=10)
        for task in (*waiting, *holding):
            task.cancel()
        await asyncio.gather(*waiting, *holding, return_exceptions=True)
        await soon(gateway.at_rest, within=5)
    assert {line["name"] for line in gateway.journal()} == {"hold"}
