"""A budget for retries: when every upstream is down, retries must not multiply the load.

Within a sliding window, failed retries may be a share of the incoming requests, or a small fixed number if that is
larger, so that a quiet gateway can fall back too. A retry that succeeds gives its place back. A burst whose first
choice is down therefore reaches a healthy second choice whole; with every upstream down the calls stay within
``1 + ratio`` times the requests. (After the retry budgets of Finagle and Envoy; giving back is our own.)
"""

from __future__ import annotations

import asyncio
from collections import deque

from pydantic import AliasChoices, Field

from catalog.validation.section import Section
from routing.clock import Clock
from routing.outcomes import Outcome, Result


class RetrySettings(Section):
    """Limits of the retry budget. Times are seconds."""

    ratio: float = Field(default=0.2, ge=0, description="failed retries per request in the window")
    window: float = Field(default=10.0, gt=0, description="seconds of the window")
    minimum: int = Field(default=10, ge=0, description="failed retries in the window that are always allowed")
    wait_timeout: float = Field(
        default=2.0,
        ge=0,
        validation_alias=AliasChoices("wait_timeout", "patience"),
        description="seconds that a retry waits for earlier ones to end",
    )


class RetryBudget:
    """Counts requests and retries in tenths of the window. Belongs to one event loop."""

    def __init__(self, settings: RetrySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._slice = settings.window / 10
        self._slices: deque[list[int]] = deque()
        self._offered = 0
        self._spent = 0
        self._pending = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def configure(self, settings: RetrySettings) -> None:
        """Use other limits. With another window the counts begin anew."""
        if settings.window != self._settings.window:
            self._slices.clear()
            self._offered = self._spent = self._pending = 0
        self._settings = settings
        self._slice = settings.window / 10
        self._wake()

    def deposit(self) -> None:
        """Count one incoming request."""
        self._current()[1] += 1
        self._offered += 1

    def spend(self) -> bool:
        """Take a retry if one is left. :meth:`settle` or :meth:`record` must follow."""
        current = self._current()
        if self._spent >= self._allowed():
            return False
        current[2] += 1
        self._spent += 1
        self._pending += 1
        return True

    async def acquire(self) -> bool:
        """Take a retry; when none is left, wait for retries under way, whose success gives places back.

        Waits for ``wait_timeout`` at most, and not at all when no retry is under way.
        """
        deadline = self._clock.monotonic() + self._settings.wait_timeout
        while not self.spend():
            left = deadline - self._clock.monotonic()
            if self._pending == 0 or left <= 0:
                return False
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await asyncio.wait((turn,), timeout=left)
            finally:
                turn.cancel()
        return True

    def record(self, outcome: Outcome) -> None:
        """Settle the retry that an outcome ends; a request's first attempt is not a retry."""
        if outcome.attempt > 1:
            self.settle(outcome.result not in (Result.FAILED, Result.CANNOT))

    def settle(self, succeeded: bool) -> None:
        """End a retry; a success gives its place back."""
        self._pending = max(0, self._pending - 1)
        if succeeded and self._spent > 0:
            self._spent -= 1
            for one in reversed(self._slices):
                if one[2] > 0:
                    one[2] -= 1
                    break
        self._wake()

    def _wake(self) -> None:
        """Wake one waiter per free place, or all of them when no retry is under way."""
        places = self._allowed() - self._spent
        while self._waiting and (places > 0 or self._pending == 0):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                places -= 1

    def _allowed(self) -> int:
        return max(self._settings.minimum, int(self._settings.ratio * self._offered))

    def _current(self) -> list[int]:
        """The counts ``[slice, requests, retries]`` of the current slice, after dropping expired slices."""
        now = int(self._clock.monotonic() / self._slice)
        while self._slices and self._slices[0][0] <= now - 10:
            _, offered, spent = self._slices.popleft()
            self._offered -= offered
            self._spent -= spent
            self._pending = min(self._pending, self._spent)
        if not self._slices or self._slices[-1][0] != now:
            self._slices.append([now, 0, 0])
        return self._slices[-1]
