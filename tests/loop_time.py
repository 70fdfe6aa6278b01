"""Event loops whose time a test controls: what a timeout does is tested without measuring the machine.

:func:`virtual_time` is for tests whose servers and clients share one loop: time stands still while there is work,
and jumps to the next timer when there is none. :func:`skipped_time` is for tests with processes of their own: time
runs as usual, and a test moves it forward.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

SETTLE = 0.02
"""Real seconds that the loop must have nothing to do before its time jumps: what the kernel has not delivered yet
is work, too."""

T = TypeVar("T")
Events = list[tuple[selectors.SelectorKey, int]]


class VirtualTime:
    """The clock of a loop in virtual time, in seconds, and what takes the place of its selector."""

    def __init__(self, loop: Any) -> None:
        self._now: float = loop.time()
        self._poll: Callable[[float | None], Events] = loop._selector.select
        self._run: Callable[..., asyncio.Future[Any]] = loop.run_in_executor
        self._threads = 0

    def __call__(self) -> float:
        return self._now

    def select(self, timeout: float | None = None) -> Events:
        ready = self._poll(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._threads:
            return self._poll(None)  # no timer is set, or a thread is at work, which will wake the loop
        ready = self._poll(SETTLE)
        if not ready:
            self._now += timeout
        return ready

    def run_in_executor(self, *arguments: Any) -> asyncio.Future[Any]:
        self._threads += 1
        future = self._run(*arguments)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: object) -> None:
        self._threads -= 1


@contextmanager
def virtual_time() -> Iterator[VirtualTime]:
    """The running loop's time is virtual in this block; gives its clock, in seconds.

    Timers ring in their order and exactly when they are due, however slow the machine is. Work that the loop does
    not see, but in its own executor (another process, a thread of somebody else), must not be waited for in it.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop.time, VirtualTime):
        yield loop.time  # a block within a block goes on with its time
        return
    virtual = VirtualTime(loop)
    with (
        patch.object(loop, "time", virtual),
        patch.object(loop, "run_in_executor", virtual.run_in_executor),
        patch.object(loop._selector, "select", virtual.select),  # type: ignore[attr-defined]
    ):
        yield virtual


async def within(seconds: float, waiting: Coroutine[Any, Any, T]) -> T:
    """The result of ``waiting``, which may take so many seconds of virtual time; raises TimeoutError after them.

    The time that I/O and computing take does not count.
    """
    with virtual_time():
        return await asyncio.wait_for(waiting, seconds)


async def rounds(number: int = 20) -> None:
    """Let the loop go round that often: a task without I/O to wait for comes to rest in a few."""
    for _ in range(number):
        await asyncio.sleep(0)


class SkippedTime:
    """The machine's monotonic clock, further on by what was skipped."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    async def skip(self, seconds: float) -> None:
        """Let ready tasks run to rest, move time forward, then let the timers that are due by then ring."""
        await rounds()
        self._ahead += seconds
        await rounds()


@contextmanager
def skipped_time() -> Iterator[SkippedTime]:
    """The running loop keeps the time of the clock that is given; hand it to the code under test as well."""
    skipped = SkippedTime()
    with patch.object(asyncio.get_running_loop(), "time", skipped):
        yield skipped
