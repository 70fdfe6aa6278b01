"""Controls the time of an event loop, so that tests of timeouts do not depend on the speed of the machine.

:func:`virtual_time` is for servers and clients in one loop: time stands still while there is work, and jumps to
the next timer when there is none. :func:`skipped_time` is for tests with processes: time runs as usual, and the
test can move it forward.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

SETTLE = 0.02
"""Real seconds without an event before time jumps: the kernel may deliver data on loopback with a delay."""

T = TypeVar("T")
Events = list[tuple[selectors.SelectorKey, int]]


class VirtualTime:
    """The clock of a loop in virtual time, in seconds, and the replacement of its selector."""

    def __init__(self, loop: Any) -> None:
        self._now: float = loop.time()
        self._poll: Callable[[float | None], Events] = loop._selector.select
        self._run: Callable[..., asyncio.Future[Any]] = loop.run_in_executor
        self._threads = 0

    def __call__(self) -> float:
        return self._now

    def select(self, timeout: float | None = None) -> Events:
        """Poll for events; when there are none, jump by ``timeout``, which ends when the next timer is due."""
        ready = self._poll(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._threads:
            return self._poll(None)  # without a timer, or until a thread of the executor wakes the loop
        ready = self._poll(SETTLE)
        if not ready:
            self._now += timeout
        return ready

    def run_in_executor(self, *arguments: Any) -> asyncio.Future[Any]:
        """As the loop's method; time stands still until the function has returned."""
        self._threads += 1
        future = self._run(*arguments)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: object) -> None:
        self._threads -= 1


@contextmanager
def virtual_time() -> Iterator[VirtualTime]:
    """Run the block in virtual time, on the running loop; gives the clock.

    Timers fire in order and exactly when they are due. Do not wait in the block for a process, or for a thread
    outside the loop's executor: their work does not stop the clock. A block within a block shares its time.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop.time, VirtualTime):
        yield loop.time
        return
    virtual = VirtualTime(loop)
    with (
        patch.object(loop, "time", virtual),
        patch.object(loop, "run_in_executor", virtual.run_in_executor),
        patch.object(loop._selector, "select", virtual.select),  # type: ignore[attr-defined]
    ):
        yield virtual


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """The result of ``awaitable``; raises TimeoutError after so many seconds of virtual time.

    Only waiting for timers takes virtual time; I/O and computation take none.
    """
    with virtual_time():
        return await asyncio.wait_for(awaitable, seconds)


async def rounds(number: int = 20) -> None:
    """Let the loop run so many rounds, enough for tasks that need no I/O to come to rest."""
    for _ in range(number):
        await asyncio.sleep(0)


class SkippedTime:
    """The machine's monotonic clock plus the seconds that were skipped."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    async def skip(self, seconds: float) -> None:
        """Let ready tasks run to rest, move time forward, then let the timers fire that are due by then."""
        await rounds()
        self._ahead += seconds
        await rounds()


@contextmanager
def skipped_time() -> Iterator[SkippedTime]:
    """The clock of the running loop during the block; pass it to the code under test as well."""
    skipped = SkippedTime()
    with patch.object(asyncio.get_running_loop(), "time", skipped):
        yield skipped
