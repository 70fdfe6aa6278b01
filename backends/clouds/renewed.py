"""Credentials that expire: all calls share them, and one renewal at a time, in a thread, replaces them in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Generic, TypeVar

import structlog

from backends.base import Upstream
from backends.http import HttpClient
from catalog.clouds import CloudAccount
from catalog.errors import RoundhouseError

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that a report waits for credentials."""
PAUSE = 10.0
"""Seconds after a failed renewal in which credentials that are still valid are used as they are."""


class Freshness(Enum):
    """FRESH can be used; STALE too, but should be renewed; EXPIRED cannot."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


class Renewed(Generic[T]):
    """Holds one value. ``renew`` makes the next one of the last (None at first); it runs in a thread.

    ``renew`` raises only :mod:`catalog.errors`. A caller that leaves ends no renewal: others may wait for it.
    """

    def __init__(self, renew: Callable[[T | None], T], freshness: Callable[[T], Freshness]) -> None:
        self._renew = renew
        self._freshness = freshness
        self._value: T | None = None
        self._renewal: asyncio.Task[T] | None = None
        self._not_before = 0.0

    async def get(self) -> T:
        """A value that has not expired. Raises what ``renew`` raises if there is none."""
        value = self._value
        if value is not None:
            freshness = self._freshness(value)
            if freshness is Freshness.STALE and asyncio.get_running_loop().time() >= self._not_before:
                self._begin()
            if freshness is not Freshness.EXPIRED:
                return value
        return await asyncio.shield(self._begin())

    def forget(self) -> None:
        """Drop a value that was refused; the next caller waits for another."""
        self._value = None

    async def aclose(self) -> None:
        """End a renewal in progress; its thread ends by its own time limits."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    def _begin(self) -> asyncio.Task[T]:
        if self._renewal is None:
            self._renewal = asyncio.create_task(asyncio.to_thread(self._renew, self._value))
            self._renewal.add_done_callback(self._end)
        return self._renewal

    def _end(self, renewal: asyncio.Task[T]) -> None:
        self._renewal = None
        if renewal.cancelled():
            return
        error = renewal.exception()
        if error is None:
            self._value = renewal.result()
            return
        if self._value is None:
            return  # its callers are told
        self._not_before = renewal.get_loop().time() + PAUSE
        reason = error.message if isinstance(error, RoundhouseError) else type(error).__name__
        structlog.get_logger("backends.clouds").warning("credentials could not be renewed", reason=reason)


class Accounts(Generic[T]):
    """The credentials of all endpoints of one cloud, each renewed for all of its calls."""

    def __init__(self, http: HttpClient) -> None:
        self.settings = http.settings
        self._known: dict[tuple[str, CloudAccount], Renewed[T]] = {}
        http.at_close(self.aclose)

    def renewed(self, endpoint: str, account: CloudAccount) -> Renewed[T]:
        """New credentials of an endpoint."""
        raise NotImplementedError

    def of(self, upstream: Upstream) -> Renewed[T]:
        """The credentials of an upstream's endpoint."""
        account = (upstream.endpoint, upstream.cloud)
        found = self._known.get(account)
        if found is None:
            found = self._known[account] = self.renewed(*account)
        return found

    async def fault(self, upstream: Upstream) -> str | None:
        """The fault that keeps the endpoint from being called, sought for at most :data:`PATIENCE`; else None."""
        if upstream.api_key:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                await self.of(upstream).get()
        except TimeoutError:
            return "its credentials cannot be had: the cloud does not answer"
        except RoundhouseError as error:
            return error.message
        return None

    def forget(self, upstream: Upstream) -> None:
        """Drop credentials that were refused, and read them anew."""
        self.of(upstream).forget()

    async def aclose(self) -> None:
        for credentials in self._known.values():
            await credentials.aclose()
