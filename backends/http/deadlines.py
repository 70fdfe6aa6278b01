"""The deadlines of one call: when its current wait ends, and the error of the deadline that passed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.base import Timeouts, Upstream
from backends.http.connection import Connection
from catalog.errors import FirstByteTimeout, IdleTimeout, TotalTimeout, UpstreamTimeout

STEPS = 10
"""Iterations of the event loop that :func:`fair_timeout` grants at least; making a connection takes about five."""


@asynccontextmanager
async def fair_timeout(seconds: float | None) -> AsyncIterator[None]:
    """Raises TimeoutError in the block after ``seconds``, but not before the event loop has iterated STEPS times.

    A plain timer also runs while this process is busy: where a thousand answers begin at once, it would give up
    connections that the upstream accepted long ago. ``None`` sets no limit.
    """
    if seconds is None:
        yield
        return
    async with asyncio.timeout(None) as limit:
        timer = _SteppedTimer(limit, seconds)
        try:
            yield
        finally:
            timer.cancel()


class _SteppedTimer:
    """Expires ``limit`` after ``seconds``, in :data:`STEPS` steps that each need an iteration of the loop."""

    __slots__ = ("_began", "_handle", "_limit", "_seconds", "_step")

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._began = asyncio.get_running_loop().time()
        self._step = 0
        self._handle: asyncio.TimerHandle | None = None
        self._advance()

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _advance(self) -> None:
        loop = asyncio.get_running_loop()
        if self._step == STEPS:
            self._limit.reschedule(loop.time())
            return
        self._step += 1
        self._handle = loop.call_at(self._began + self._seconds * self._step / STEPS, self._advance)


class DeadlinePassed(Exception):
    """Ends a wait for more of an answer; :meth:`Deadlines.error` says which deadline it was."""


class Deadlines:
    """The deadlines of one call, in the event loop's time. ``first_byte`` and ``total`` run from its start.
    ``first_byte`` begins anew with each sign of progress that a worker gives while it reads the prompt.

    A call waits once for each piece of its answer. All its waits share one timer, which is set again only when it
    fires: a context manager with a timer of its own would cost more than reading the piece. The timer ends a wait,
    and an upstream that always has bytes ready causes none, so each piece is compared with the clock as well.
    """

    __slots__ = (
        "_answering", "_connection", "_fires_at", "_limit", "_loop", "_progressed", "_timer", "_times",
        "_total_at", "_until", "_upstream",
    )  # fmt: skip

    def __init__(self, upstream: Upstream) -> None:
        self._loop = asyncio.get_running_loop()
        self._upstream = upstream
        self._times: Timeouts = upstream.timeouts
        now = self._loop.time()
        self._limit = now + self._times.first_byte
        """The end of ``first_byte``; once the answer has begun, the end of the current ``idle``."""
        self._total_at = now + self._times.total
        self._connection: Connection | None = None
        self._until: float | None = None
        self._fires_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._answering = False
        self._progressed = False

    def first_byte_by(self) -> float:
        """The time by which the answer must begin."""
        return min(self._limit, self._total_at)

    def progress(self) -> None:
        """Note a piece of the answer: ``idle`` starts at the next wait. Raises TotalTimeout past ``total``."""
        self._answering = self._progressed = True
        if self._loop.time() >= self._total_at:
            raise self.error()

    def prefilling(self) -> None:
        """Note progress with the prompt before the answer begins: ``first_byte`` starts again."""
        self._answering = self._progressed = False
        self._limit = self._loop.time() + self._times.first_byte

    def no_progress(self, *, working: bool = False) -> None:
        """Note bytes that are no part of the answer, such as comments. Raises UpstreamTimeout past a deadline.

        ``working``: they are signs of work on an answer that has begun, so they restart ``idle`` all the same.
        """
        now = self._loop.time()
        if self._progressed or (working and self._answering):
            self._progressed = False
            self._limit = now + self._times.idle
        if now >= self.first_byte_by():
            raise self.error()

    def start_wait(self, connection: Connection) -> None:
        """Start a wait for more of the answer. Past its deadline, DeadlinePassed is raised here or in the wait."""
        now = self._loop.time()
        if self._progressed:
            self._progressed = False
            self._limit = now + self._times.idle
        self._until = until = min(self._limit, self._total_at)
        if now >= until:
            raise DeadlinePassed
        self._connection = connection
        if self._timer is None or until < self._fires_at:
            self._set(until)

    def end_wait(self) -> None:
        """End the wait: the time until the next one is the reader's, not the upstream's."""
        self._until = None

    def close(self) -> None:
        """Cancel the timer, at the end of the call."""
        self._until = self._connection = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def error(self) -> UpstreamTimeout:
        """The error of the deadline that has passed."""
        endpoint = f"The endpoint '{self._upstream.endpoint}'"
        if self._loop.time() >= self._total_at:
            return TotalTimeout(f"{endpoint} took longer than {self._times.total:g} s for the whole answer.")
        if self._answering:
            return IdleTimeout(f"{endpoint} sent nothing for {self._times.idle:g} s within its answer.")
        return FirstByteTimeout(f"{endpoint} did not begin to answer within {self._times.first_byte:g} s.")

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = at
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._until is None or self._connection is None:
            return
        if self._loop.time() < self._until:
            self._set(self._until)
        else:
            self._connection.fail_wait(DeadlinePassed())
