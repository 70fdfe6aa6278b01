"""Runs an engine's blocking work in threads, so that the event loop stays free to notice disconnects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class WorkerStats:
    """Request counts of a worker. ``active`` counts work that occupies the device: a cancelled request stays
    active until its thread has stopped.
    """

    active: int = 0
    queued: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0


class WorkCancelled(Exception):
    """Raised within blocking work whose request was cancelled."""


class CancelSignal:
    """Tells blocking work that its request was cancelled."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raise WorkCancelled if the request was cancelled; to be called wherever the work can be abandoned."""
        if self._event.is_set():
            raise WorkCancelled


class ThreadRunner:
    """Runs blocking generators step by step in threads, ``slots`` at a time; further ones are queued.

    With fewer ``threads`` than slots the generators take turns, a step each, so that a short one does not wait for
    the end of a long one.
    """

    def __init__(self, slots: int, *, threads: int | None = None) -> None:
        self.stats = WorkerStats()
        self._slots = asyncio.Semaphore(slots)
        self._threads = ThreadPoolExecutor(min(slots, threads or slots), thread_name_prefix="engine")

    async def stream(self, produce: Callable[[CancelSignal], Generator[T, None, None]]) -> AsyncGenerator[T, None]:
        """Yield the items of ``produce``. Closing this generator stops the work at its next yield or check.

        The slot is released once the thread has stopped.
        """
        await self._enter()
        cancel = CancelSignal()
        items = produce(cancel)
        step: Future[tuple[T] | None] | None = None
        outcome: Literal["done", "failed", "cancelled"] = "cancelled"
        try:
            while True:
                step = self._threads.submit(_step, items)
                item = await asyncio.wrap_future(step)
                if item is None:
                    outcome = "done"
                    return
                yield item[0]
        except Exception:
            outcome = "failed"
            raise
        finally:
            cancel.set()
            self._leave_after(step, items, outcome)

    def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread and wait for it, before there is an event loop. Raises its error."""
        return self._threads.submit(work).result()

    async def call(self, work: Callable[[], T]) -> T:
        """Run short ``work`` in a thread, between the steps of others. Raises its error."""
        return await asyncio.wrap_future(self._threads.submit(work))

    def close(self) -> None:
        """Wait for the running steps, then end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _enter(self) -> None:
        self.stats.queued += 1
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            self.stats.cancelled += 1
            raise
        finally:
            self.stats.queued -= 1
        self.stats.active += 1

    def _leave_after(
        self,
        step: Future[tuple[T] | None] | None,
        items: Generator[T, None, None],
        outcome: Literal["done", "failed", "cancelled"],
    ) -> None:
        loop = asyncio.get_running_loop()

        def leave() -> None:
            self.stats.active -= 1
            setattr(self.stats, outcome, getattr(self.stats, outcome) + 1)
            self._slots.release()

        def close(_: object = None) -> None:
            # In a thread as well, as the generator's cleanup may block.
            self._threads.submit(items.close).add_done_callback(lambda _: loop.call_soon_threadsafe(leave))

        if outcome != "cancelled":
            leave()  # the generator has ended
        elif step is None or step.done():
            close()
        else:
            step.add_done_callback(close)


def _step(items: Generator[T, None, None]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None
