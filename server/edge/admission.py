"""How many requests are at work, whether more may come, and what is still running when the server stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from catalog.errors import Draining, RateLimited, RoundhouseError, Unavailable
from server.edge.callers import Caller
from server.settings import LimitSettings


class Work(Protocol):
    """Something that waits or streams, and can be told to end."""

    def abort(self, error: RoundhouseError) -> None: ...


class InFlight:
    """The requests of this process.

    Refusing is the cheapest thing the server does: it happens before the body is read.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self.limits = limits
        self.works: set[Work] = set()
        self.count = 0
        self.draining = False
        self._by_caller: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(self, caller: Caller) -> Iterator[None]:
        """One request at work. Raises Draining, Unavailable (it is full) or RateLimited (this caller is)."""
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

    def check_open(self) -> None:
        """Raises Draining when the server is stopping."""
        if self.draining:
            raise draining()

    def begin_drain(self) -> None:
        """From now on every new request is refused and readiness is false; what runs goes on."""
        self.draining = True

    async def drained(self, deadline: float, *, grace: float = 1.0) -> bool:
        """Wait ``deadline`` seconds for everything to end; then end it with an error.

        False when something had to be ended; it is given ``grace`` seconds to say so to its client.
        """
        self.begin_drain()
        try:
            async with asyncio.timeout(deadline):
                await self._idle.wait()
            return True
        except TimeoutError:
            pass
        for work in tuple(self.works):
            work.abort(draining())
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            pass
        return False


def draining() -> Draining:
    """The error that new requests, and those past the drain's deadline, are given."""
    return Draining("The server is shutting down. Try again on another one, or shortly.", retry_after=5)
