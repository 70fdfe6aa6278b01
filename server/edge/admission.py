"""Admission: bounds the requests at work, and drains them when the server stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from catalog.errors import Draining, RateLimited, RoundhouseError, Unavailable
from server.callers import Caller
from server.settings import LimitSettings


class Work(Protocol):
    """Work of a request that can be aborted."""

    def abort(self, error: RoundhouseError) -> None: ...


class LongSession(Protocol):
    """A connection that stays open between its requests."""

    @property
    def key(self) -> str:
        """The id of its caller."""
        ...

    def drain(self) -> None:
        """End it, once what it is doing now is done."""
        ...

    def abort(self, error: RoundhouseError) -> None:
        """End it at once."""
        ...


class InFlight:
    """The requests at work in this process. A request is refused before its body is read."""

    def __init__(self, limits: LimitSettings) -> None:
        self.limits = limits
        self.works: set[Work] = set()
        self.sessions: set[LongSession] = set()
        self.count = self.asked = 0
        self.draining = False
        self._by_caller: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(self, caller: Caller) -> Iterator[None]:
        """Count one request while the block runs.

        Raises Draining, Unavailable (the server is full) or RateLimited (the caller is at its own limit).
        """
        self.check_open()
        limits = self.limits
        if self.count >= limits.concurrency:
            raise Unavailable(
                f"The server is at its limit of {limits.concurrency} requests at a time. Try again shortly.",
                retry_after=limits.retry_after,
            )
        own = limits.concurrency_per_key
        if own is not None and self._by_caller[caller.id] >= own:
            raise RateLimited(
                f"This key is at its limit of {own} requests at a time.", retry_after=limits.retry_after
            )
        self.count += 1
        self._by_caller[caller.id] += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.count -= 1
            self._by_caller[caller.id] -= 1
            if not self._by_caller[caller.id]:
                del self._by_caller[caller.id]
            if not self.count:
                self._idle.set()

    @property
    def working(self) -> int:
        """Requests that models are at work on; ``asked`` counts all that there have been."""
        return len(self.works)

    def begin(self, work: Work) -> None:
        """Count work of a request, and abort it when the server stops; ``works`` loses it when it ends."""
        self.works.add(work)
        self.asked += 1

    def check_open(self) -> None:
        """Raises Draining when the server is stopping."""
        if self.draining:
            raise draining()

    def begin_drain(self) -> None:
        """Refuse every new request and report not ready; running requests go on, and sessions end after theirs."""
        self.draining = True
        for session in tuple(self.sessions):
            session.drain()

    async def drained(self, deadline: float, *, grace: float = 1.0) -> bool:
        """Wait ``deadline`` seconds for all requests to end; then abort the rest with an error.

        Returns False if some were aborted; they have ``grace`` seconds to tell their clients.
        """
        self.begin_drain()
        try:
            async with asyncio.timeout(deadline):
                await self._idle.wait()
            return True
        except TimeoutError:
            pass
        for work in (*self.works, *self.sessions):
            work.abort(draining())
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            pass
        return False


def draining() -> Draining:
    """The error for new requests, and for those past the drain's deadline."""
    return Draining("The server is shutting down. Try again on another one, or shortly.", retry_after=5)
