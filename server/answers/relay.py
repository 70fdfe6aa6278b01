"""A relay reads an answer in a task of its own, into a bounded buffer that its client's task empties."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar

import structlog

from catalog.errors import RoundhouseError
from server.edge.admission import InFlight
from server.edge.disconnect import ResponseCut
from server.edge.errors import as_error
from server.models.on_use import TELL
from server.observability.totals import current_totals

S = TypeVar("S", bound=AsyncIterable[Any])
T_contra = TypeVar("T_contra", contravariant=True)


class Encoder(Protocol[T_contra]):
    """Encodes the items of an answer as bytes of a response."""

    def encode(self, item: T_contra) -> bytes:
        """The bytes of one item; may be empty."""
        ...

    def finish(self) -> bytes | Awaitable[bytes]:
        """The bytes that end a complete answer, perhaps once it is stored.

        Raises StreamBroken if the answer was not complete.
        """
        ...

    def fail(self, error: RoundhouseError) -> bytes | None:
        """The bytes that report an error after the headers; ``None`` cuts the connection instead."""
        ...


class Relay(Generic[S]):
    """Reads one answer, or other work's progress, in a task of its own, from opening it to closing it.

    Opening waits in queues and for models to load, so the headers may leave before it is done: :meth:`opened`
    waits for a limited time. Data is passed on in as few pieces as the client's pace allows; a client that does
    not read makes the upstream wait once ``capacity`` items are buffered.
    """

    def __init__(
        self,
        opening: AbstractAsyncContextManager[S],
        encoder: Encoder[Any],
        *,
        in_flight: InFlight,
        capacity: int,
        on_error: Callable[[str], None] = lambda _: None,
        comment: Callable[[str], bytes] | None = None,
    ) -> None:
        """``on_error`` is called with the code of an error that is reported within the answer.

        ``comment`` makes lines on the progress of the opening into bytes of the response; ``None``: it has none.
        """
        self._opening = opening
        self._encoder = encoder
        self._capacity = capacity
        self._on_error = on_error
        self._comment = comment
        self._buffer: list[bytes] = []
        self._answer: S | None = None
        self._error: RoundhouseError | None = None
        self._why: RoundhouseError | None = None
        self._headers_left = False
        self._cut = False
        self._ended = False
        self._news = _Signal()
        self._room = _Signal()
        self._works = in_flight.works
        self._totals = current_totals()
        if self._totals is not None:
            self._totals.hold()
        self._task = asyncio.create_task(self._run())
        in_flight.begin(self)
        self._task.add_done_callback(self._done)

    async def opened(self, timeout: float | None) -> S | None:
        """The answer, or ``None`` if it is not open after ``timeout`` seconds (``None``: no limit).

        Raises what opening raised.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._answer is None and not self._ended:
                    await self._news.wait()
        except TimeoutError:
            pass
        if self._error is not None and self._answer is None:
            raise self._error
        self._headers_left = True
        return self._answer

    async def take(self) -> tuple[bytes, bool]:
        """The next data, once there is some, and whether more will follow.

        Raises ResponseCut when the answer stops in the middle.
        """
        while not self._buffer and not self._ended:
            await self._news.wait()
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._room.set()
        if self._cut and not data:
            raise ResponseCut
        return data, self._cut or not self._ended

    def interject(self, data: bytes) -> None:
        """Add ``data`` if the buffer is empty."""
        if not self._buffer and not self._ended:
            self._buffer.append(data)
            self._news.set()

    def abort(self, error: RoundhouseError) -> None:
        """End the stream with ``error``."""
        if self._why is None and not self._ended:
            self._why = error
            self._task.cancel()

    def cancel(self) -> None:
        """Close the upstream, because the client reads no more; an ended answer closes it by itself."""
        if not self._ended:
            self._task.cancel()

    async def _run(self) -> None:
        comment = self._comment
        if comment is not None:
            TELL.set(lambda line: self.interject(comment(line)))
        try:
            await self._relay()
        except asyncio.CancelledError:
            if self._why is None:
                raise
            self._fail(self._why)
        except Exception as error:  # the edge of a request: every failure is reported to the client
            typed = as_error(error)
            if typed is not error:
                structlog.get_logger().error("stream failed", exc_info=error)
            self._fail(typed)
        finally:
            self._end()

    async def _relay(self) -> None:
        buffer, capacity, encode, notify = self._buffer, self._capacity, self._encoder.encode, self._news.set
        async with self._opening as answer:
            self._answer = answer
            notify()
            begun = False
            async for item in answer:
                data = encode(item)
                if data:
                    buffer.append(data)
                    notify()
                    if not begun:
                        begun = True
                        await asyncio.sleep(0)  # let the first data leave before the rest is encoded
                    while len(buffer) >= capacity:
                        await self._room.wait()
            end = self._encoder.finish()
            buffer.append(end if isinstance(end, bytes) else await end)
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._news.set()

    def _done(self, task: asyncio.Task[None]) -> None:
        del task
        self._works.discard(self)
        self._end()
        if self._totals is not None:
            self._totals.release()

    def _fail(self, error: RoundhouseError) -> None:
        if self._ended:
            structlog.get_logger().warning("closing an answer failed", code=error.code)
            return
        self._error = error
        if not self._headers_left and self._answer is None:
            return
        structlog.get_logger("server.answers.relay").warning("answer broken off", code=error.code)
        self._on_error(error.code)
        data = self._encoder.fail(error)
        if data is None:
            self._cut = True
        else:
            self._buffer.append(data)


class _Signal:
    """Wakes one waiting task: an :class:`asyncio.Event` without a queue of waiters."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    def set(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def wait(self) -> None:
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        try:
            await waiting
        finally:
            if self._waiting is waiting:
                self._waiting = None
