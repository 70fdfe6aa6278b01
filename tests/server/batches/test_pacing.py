"""Lines of batches leave the event loop to interactive requests."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from itertools import pairwise

import pytest

from server.batches.pacing import FIRST, GATHER, LATELY, LONGEST, SHARE, Pacer


@dataclass
class Clients:
    """The requests of clients."""

    working: int = 0
    asked: int = 0


class Scripted:
    """A pacer whose clocks the test moves; a sleep passes at once."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used = 0.0
        self.clients = Clients()
        self.pacer = Pacer(lambda: self.clients, clock=lambda: self.now, used=lambda: self.used, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    async def line(self, seconds: float) -> None:
        """A line that works in two steps, and waits long for its upstream between them."""
        self.used += seconds / 2
        await asyncio.sleep(0)
        self.now += 5.0
        self.used += seconds / 2

    async def began(self, count: int) -> list[float]:
        """The times between the beginnings of lines."""
        times = []
        for _ in range(count + 1):
            await self.pacer.turn()
            times.append(self.now)
        return [after - before for before, after in pairwise(times)]


async def test_lines_begin_at_once_where_no_interactive_requests_come() -> None:
    assert await Scripted().began(20) == [0.0] * 20


async def test_lines_take_a_tenth_of_the_loops_time_beside_interactive_requests() -> None:
    some = Scripted()
    some.clients.working = 1
    assert await some.began(5) == pytest.approx([SHARE * FIRST] * 5)
    for _ in range(100):
        await some.pacer.measured(some.line(0.01))
    some.now += 1.0
    assert await some.began(5) == pytest.approx([SHARE * 0.01] * 5), "the wait for the upstream does not count"


async def test_a_line_that_needs_the_loop_long_does_not_hold_up_the_next_for_ever() -> None:
    some = Scripted()
    some.clients.working = 1
    for _ in range(100):
        await some.pacer.measured(some.line(60.0))
    await some.pacer.turn()
    assert await some.began(2) == pytest.approx([SHARE * LONGEST] * 2)


async def test_a_short_request_between_two_looks_is_noticed_and_forgotten_in_a_second() -> None:
    some = Scripted()
    await some.pacer.turn()
    some.clients.asked += 1
    assert some.pacer.talks
    some.now += LATELY / 2
    assert some.pacer.talks
    some.now += LATELY / 2
    assert not some.pacer.talks


async def test_a_line_that_waits_goes_on_when_the_interactive_requests_have_ended() -> None:
    some = Scripted()
    some.clients.working = 1
    for _ in range(100):
        await some.pacer.measured(some.line(60.0))
    await some.pacer.turn()
    some.clients.working = 0
    some.now += LATELY
    assert await some.began(3) == [0.0] * 3


async def test_a_measured_line_is_answered_fails_and_is_cancelled_as_any_other() -> None:
    pacer = Scripted().pacer

    async def answered() -> str:
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
            return "yes"

    async def failed() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    assert await pacer.measured(answered()) == "yes"
    with pytest.raises(ValueError, match="no"):
        await pacer.measured(failed())
    waits = asyncio.Event()
    ended: list[str] = []

    async def waiting() -> None:
        try:
            waits.set()
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    task = asyncio.create_task(pacer.measured(waiting()))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ended"]


async def test_an_error_that_a_measured_line_handles_leaves_no_reference_cycle() -> None:
    pacer = Scripted().pacer

    async def patient() -> None:
        for _ in range(3):
            try:
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            except TimeoutError:
                pass

    gc.collect()
    gc.disable()
    try:
        await pacer.measured(patient())
        assert gc.collect() == 0
    finally:
        gc.enable()


async def test_the_pieces_of_an_answer_gather_while_interactive_requests_come() -> None:
    some = Scripted()
    some.clients.working = 1
    gather = some.pacer.gathering()
    waits = []
    for is_there in (False, True, True, False, False, True):
        if not is_there:
            await asyncio.sleep(0)
        before = some.now
        await gather()
        waits.append(some.now - before)
    assert waits == pytest.approx([GATHER, 0, 0, GATHER, GATHER, 0]), "pieces that are there are taken at once"


async def test_the_pieces_of_an_answer_are_taken_as_they_come_where_no_interactive_requests_do() -> None:
    some = Scripted()
    gather = some.pacer.gathering()
    before = some.now
    for _ in range(5):
        await asyncio.sleep(0)
        await gather()
    assert some.now == before
