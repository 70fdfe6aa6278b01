"""The clocks of one call: when the wait that goes on now is too long, and what its error is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.base import Timeouts, Upstream
from backends.http.connection import Connection
from catalog.errors import FirstByteTimeout, IdleTimeout, TotalTimeout, UpstreamTimeout

ROUNDS = 10
"""Rounds of the event loop that a connection is given at least; making one takes about five."""


@asynccontextmanager
async def patience(seconds: float | None) -> AsyncIterator[None]:
    """Raises TimeoutError in the block after ``seconds``, but not before the event loop came round ROUNDS times.

    A plain timer goes on while this process is behind with its own work: where a thousand answers begin at once,
    connections that the upstream had long accepted were given up unseen.
    """
    if seconds is None:
        yield
        return
    async with asyncio.timeout(None) as limit:
        rounds = _Rounds(limit, seconds)
        try:
            yield
        finally:
            rounds.stop()


class _Rounds:
    """Ends ``limit`` after ``seconds``, in :data:`ROUNDS` steps that each need a turn of the loop."""

    __slots__ = ("_began", "_limit", "_number", "_seconds", "_timer")

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._began = asyncio.get_running_loop().time()
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._come_round()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _come_round(self) -> None:
        loop = asyncio.get_running_loop()
        if self._number == ROUNDS:
            self._limit.reschedule(loop.time())
            return
        self._number += 1
        self._timer = loop.call_at(self._began + self._seconds * self._number / ROUNDS, self._come_round)


class TimeIsUp(Exception):
    """Ends a wait for more of an answer."""


class Clock:
    """The deadlines of one call, in the event loop's time. ``first_byte`` runs from the start of the call.

    An answer is waited for as often as the network gives a piece of it, so the waits share one timer, which is set
    anew only when it rings: a context manager of a timer of its own would cost more than the piece.
    """

    __slots__ = (
        "_connection", "_first_at", "_loop", "_rings_at", "_timer", "_times", "_total_at", "_until", "_upstream",
        "answering",
    )  # fmt: skip

    def __init__(self, upstream: Upstream) -> None:
        self._loop = asyncio.get_running_loop()
        self._upstream = upstream
        self._times: Timeouts = upstream.timeouts
        now = self._loop.time()
        self._first_at = now + self._times.first_byte
        self._total_at = now + self._times.total
        self._connection: Connection | None = None
        self._until: float | None = None
        self._rings_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.answering = False

    def begins_by(self) -> float:
        """Until when the answer must begin."""
        return min(self._first_at, self._total_at)

    def wait(self, connection: Connection) -> None:
        """A wait for more of an answer begins: it will raise TimeIsUp when it is too long."""
        limit = self._loop.time() + self._times.idle if self.answering else self._first_at
        self._connection = connection
        self._until = until = min(limit, self._total_at)
        if self._timer is None or until < self._rings_at:
            self._set(until)

    def rest(self) -> None:
        """The wait is over; a reader that takes its time is not the upstream's fault."""
        self._until = None

    def close(self) -> None:
        """The call is over."""
        self._until = self._connection = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expired(self) -> UpstreamTimeout:
        """The error of the clock that ran out."""
        who = f"The endpoint '{self._upstream.endpoint}'"
        if self._loop.time() >= self._total_at:
            return TotalTimeout(f"{who} took longer than {self._times.total:g} s for the whole answer.")
        if self.answering:
            return IdleTimeout(f"{who} sent nothing for {self._times.idle:g} s within its answer.")
        return FirstByteTimeout(f"{who} did not begin to answer within {self._times.first_byte:g} s.")

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._until is None or self._connection is None:
            return
        if self._loop.time() < self._until:
            self._set(self._until)
        else:
            self._connection.give_up(TimeIsUp())
