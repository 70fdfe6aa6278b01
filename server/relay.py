"""Between an answer and its client: one task that reads the upstream, and a bounded buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

import structlog

from catalog.errors import RoundhouseError
from routing.dispatch import Answer
from server.admission import InFlight
from server.errors import as_error

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Encoder(Protocol[T_contra]):
    """Turns the items of an answer into bytes of a response."""

    def encode(self, item: T_contra) -> bytes:
        """The bytes of one item; may be none."""
        ...

    def finish(self) -> bytes:
        """What ends a complete answer. Raises StreamBroken when the answer was not complete."""
        ...

    def fail(self, error: RoundhouseError) -> bytes | None:
        """What tells of an error after the headers; ``None`` cuts the connection, the only sign left."""
        ...


class Cut(Exception):
    """The response cannot be completed and its format has no way to say so."""


class Relay(Generic[T]):
    """Reads one answer in a task of its own, from opening it to closing it.

    Opening waits in queues and for models to load, so the headers may have to leave before it is done:
    :meth:`opened` waits for it only so long. What has been read is handed on in as few pieces as the client's
    pace allows; a client that does not read makes the upstream wait once ``capacity`` items are held.
    """

    def __init__(
        self,
        opening: AbstractAsyncContextManager[Answer[T]],
        encoder: Encoder[T],
        *,
        in_flight: InFlight,
        capacity: int,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_error`` hears the code of an error that the client is told within its answer."""
        self._opening = opening
        self._encoder = encoder
        self._capacity = capacity
        self._on_error = on_error
        self._buffer: deque[bytes] = deque()
        self._answer: Answer[T] | None = None
        self._error: RoundhouseError | None = None
        self._why: RoundhouseError | None = None
        self._headers_left = False
        self._cut = False
        self._ended = False
        self._ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._works = in_flight.works
        self._task = asyncio.create_task(self._run())
        self._works.add(self)
        self._task.add_done_callback(lambda _: self._works.discard(self))

    async def opened(self, patience: float | None) -> Answer[T] | None:
        """The answer, or ``None`` when it is not open after ``patience`` seconds (``None``: however long).

        Raises what opening raised.
        """
        try:
            async with asyncio.timeout(patience):
                await self._ready.wait()
        except TimeoutError:
            pass
        if self._error is not None and self._answer is None:
            raise self._error
        self._headers_left = True
        return self._answer

    def abort(self, error: RoundhouseError) -> None:
        """End the stream with ``error``."""
        if self._why is None and not self._ended:
            self._why = error
            self._task.cancel()

    def cancel(self) -> None:
        """Nobody reads any more: close the upstream."""
        self._task.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The response's bytes as they come. Raises Cut when they stop in the middle."""
        try:
            while True:
                if self._buffer:
                    data = b"".join(self._buffer)
                    self._buffer.clear()
                    self._room.set()
                    yield data
                elif self._ended:
                    break
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self.cancel()
        if self._cut:
            raise Cut

    async def _run(self) -> None:
        try:
            await self._relay()
        except asyncio.CancelledError:
            if self._why is None:
                raise
            self._fail(self._why)
        except Exception as error:  # the edge of a request: whatever failed, the client is told
            typed = as_error(error)
            if typed is not error:
                structlog.get_logger().error("stream failed", exc_info=error)
            self._fail(typed)
        finally:
            self._ended = True
            self._ready.set()
            self._wake.set()

    async def _relay(self) -> None:
        async with self._opening as answer:
            self._answer = answer
            self._ready.set()
            async for item in answer:
                data = self._encoder.encode(item)
                if data:
                    await self._put(data)
            await self._put(self._encoder.finish())
            self._ended = True

    async def _put(self, data: bytes) -> None:
        while len(self._buffer) >= self._capacity:
            self._room.clear()
            await self._room.wait()
        self._buffer.append(data)
        self._wake.set()

    def _fail(self, error: RoundhouseError) -> None:
        if self._ended:
            structlog.get_logger().warning("closing an answer failed", code=error.code)
            return
        self._error = error
        if not self._headers_left and self._answer is None:
            return
        structlog.get_logger("server.relay").warning("answer broken off", code=error.code)
        self._on_error(error.code)
        data = self._encoder.fail(error)
        if data is None:
            self._cut = True
        else:
            self._buffer.append(data)
