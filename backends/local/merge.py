"""Merges streams, and runs coroutines side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

T = TypeVar("T")


def merged(streams: Sequence[AsyncGenerator[T]], *, at_once: int) -> AsyncGenerator[T]:
    """The items of all streams as they arrive, in order within a stream; at most ``at_once`` streams run.

    The first error of a stream ends all of them. Closing this generator closes every stream.
    """
    return streams[0] if len(streams) == 1 else _merged(streams, at_once)


async def _merged(streams: Sequence[AsyncGenerator[T]], at_once: int) -> AsyncGenerator[T]:
    items: asyncio.Queue[T | None] = asyncio.Queue(maxsize=2 * at_once)
    turns = asyncio.Semaphore(at_once)

    async def pump(stream: AsyncGenerator[T]) -> None:
        async with turns, aclosing(stream):
            async for item in stream:
                await items.put(item)

    async def pump_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for stream in streams:
                    group.create_task(pump(stream))
        finally:
            ended.set()

    ended = asyncio.Event()
    task = asyncio.create_task(pump_all())
    try:
        while True:
            following = await _next(items, ended)
            if following is None:
                break
            yield following
        await _first_error(task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _next(items: asyncio.Queue[T | None], ended: asyncio.Event) -> T | None:
    """The next item, or None when all streams have ended and nothing is left."""
    while items.empty():
        if ended.is_set():
            return None
        getting = asyncio.ensure_future(items.get())
        ending = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
        finally:
            getting.cancel()
            ending.cancel()
    return items.get_nowait()


async def _first_error(task: asyncio.Task[None]) -> None:
    """Raise a stream's error without the group that TaskGroup wraps around it."""
    try:
        await task
    except BaseExceptionGroup as group:
        raise _unwrapped(group) from None


def _unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def gathered(works: Sequence[Coroutine[Any, Any, T]], *, at_once: int) -> list[T]:
    """The results of all coroutines in their order; at most ``at_once`` of them run at a time.

    The first error cancels the others and is raised without an exception group.
    """
    turns = asyncio.Semaphore(at_once)

    async def in_turn(work: Coroutine[Any, Any, T]) -> T:
        await turns.acquire()
        result = await work
        turns.release()  # not after an error, else another one would begin before all are cancelled
        return result

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(in_turn(work)) for work in works]
    except BaseExceptionGroup as failed:
        raise _unwrapped(failed) from None
    finally:
        for work in works:
            work.close()
    return [task.result() for task in tasks]


async def collected(stream: AsyncIterator[T]) -> list[T]:
    """All items of a stream."""
    return [item async for item in stream]
