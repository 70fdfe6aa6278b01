"""Paces the lines of batches beside interactive requests, with which they share the event loop.

An upstream that answers at once would let a batch keep the loop busy, and every interactive request would wait for
it. While interactive requests come, lines begin so far apart that they take a tenth of the loop's time. Time in
which a line waits for its upstream costs the loop nothing and does not count. The pieces of a line's answer gather
meanwhile: nobody reads them as they come, and to take each alone costs far more than to take some together.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

from server.runtime import Traffic

T = TypeVar("T")

SHARE = 10
"""Lines take one in so many parts of the loop's time, so that most interactive requests meet none of them."""
LATELY = 1.0
"""Seconds after an interactive request in which more are expected."""
FIRST, LONGEST = 0.002, 0.1
"""Seconds of the loop that a line is taken to need before one has ended, and at most."""
WEIGHT = 0.2
"""Weight of the newest line in the mean of what lines need."""
GATHER = 0.1
"""Seconds in which the pieces of a line's answer gather."""
LOOK = 0.05
"""Seconds between two looks for whether interactive requests still come."""


class Pacer:
    """Paces the lines of all batches of one process. ``traffic`` returns ``None`` where no client can ask."""

    def __init__(
        self,
        traffic: Callable[[], Traffic | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``used`` is the processor time of the loop's thread in seconds."""
        self._traffic = traffic
        self._clock = clock
        self._used = used
        self._sleep = sleep
        self._mean = FIRST
        self._free_at = 0.0
        self._asked = 0
        self._asked_at = float("-inf")

    @property
    def talks(self) -> bool:
        """Whether interactive requests are at work or came of late."""
        traffic = self._traffic()
        if traffic is None:
            return False
        now = self._clock()
        if traffic.working or traffic.asked != self._asked:
            self._asked = traffic.asked
            self._asked_at = now
        return now - self._asked_at < LATELY

    async def turn(self) -> None:
        """Wait until a line may begin; at once if no interactive requests come."""
        while self.talks:
            now = self._clock()
            if now >= self._free_at:
                self._free_at = now + SHARE * self._mean
                return
            await self._sleep(min(LOOK, self._free_at - now))

    def gathering(self) -> Callable[[], Awaitable[None]]:
        """A function to await after each piece of a line's answer, so that the next ones come together.

        It rests once for all pieces that are there: between those, the event loop makes no turn.
        """
        loop, turned = asyncio.get_running_loop(), True

        def note() -> None:
            nonlocal turned
            turned = True

        async def gather() -> None:
            nonlocal turned
            if turned and self.talks:
                await self._sleep(GATHER)
                turned = False
                loop.call_soon(note)

        return gather

    async def measured(self, line: Coroutine[Any, Any, T]) -> T:
        """The result of a line, whose processor time is measured step by step."""
        total = 0.0

        def add(seconds: float) -> None:
            nonlocal total
            total += seconds

        try:
            return await _timed(line, self._used, add)
        finally:
            self._mean += WEIGHT * (min(total, LONGEST) - self._mean)


@types.coroutine
def _timed(
    line: Coroutine[Any, Any, T], used: Callable[[], float], add: Callable[[float], None]
) -> Generator[Any, Any, T]:
    """Run a coroutine as ``await`` would, and tell the time of each step."""
    error: BaseException | None = None
    while True:
        began = used()
        try:
            waits_for = line.send(None) if error is None else line.throw(error)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            error = None  # its traceback forms a reference cycle
            add(used() - began)
        try:
            yield waits_for
        except BaseException as thrown:  # the coroutine's own to handle
            error = thrown
