"""The loops whose time a test controls keep what they promise."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.loop_time import skipped_time, virtual_time, within


async def test_virtual_timers_ring_in_their_order_and_exactly_and_take_no_time() -> None:
    rang: list[tuple[str, object]] = []
    with virtual_time() as now:
        start = now()

        async def ring(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            time.sleep(0.01)  # noqa: ASYNC251 -- work, which does not count
            rang.append((name, now() - start))

        await asyncio.gather(ring("late", 3600), ring("soon", 0.5), ring("next", 0.501))
    assert [name for name, _ in rang] == ["soon", "next", "late"]
    assert [at for _, at in rang] == pytest.approx([0.5, 0.501, 3600])


async def test_virtual_time_stands_still_while_there_is_io_or_a_thread_at_work() -> None:
    async with FakeOpenAI() as fake:
        with virtual_time() as now:
            start = now()
            async with asyncio.timeout(0.001):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(fake.base_url.split(":")[2][:-3]))
                writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
                assert await reader.readuntil(b"\r\n\r\n")
                await asyncio.to_thread(time.sleep, 0.1)
            assert now() == start
            writer.close()


async def test_what_waits_for_a_timer_is_not_within_a_shorter_time() -> None:
    gate = asyncio.Event()
    with virtual_time():
        asyncio.get_running_loop().call_later(3.0, gate.set)
        with pytest.raises(TimeoutError):
            await within(2.0, gate.wait())
        await within(2.0, gate.wait())


async def test_skipping_rings_the_timers_that_are_due_by_then_and_no_others() -> None:
    with skipped_time() as now:
        start = now()
        due, later = (asyncio.create_task(asyncio.sleep(seconds)) for seconds in (300, 900))
        await now.skip(301)
        assert due.done()
        assert not later.done()
        assert now() - start >= 301
        later.cancel()
