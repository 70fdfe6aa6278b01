"""A budget for retries: when everything is down, retrying must not multiply the load that brought it down.

Over a sliding window, retries may be a share of the requests that came in, or a small number if that is
more, so that a quiet gateway can fall back too. A retry that *succeeded* gives its place back: it was no
extra load on something that fails. So a burst of requests whose first choice is down all reach a healthy
second one, while with everything down the calls stay within ``1 + ratio`` times the requests.
(After the retry budgets of Finagle and Envoy; giving back is our own.)
"""

from __future__ import annotations

import asyncio
from collections import deque

from pydantic import BaseModel, ConfigDict, Field

from routing.clock import Clock
from routing.outcomes import Outcome, Result


class RetrySettings(BaseModel):
    """How many retries there may be. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ratio: float = Field(default=0.2, ge=0, description="failed retries per request in the window")
    window: float = Field(default=10.0, gt=0)
    minimum: int = Field(default=10, ge=0, description="failed retries in the window that are always allowed")
    patience: float = Field(
        default=2.0, ge=0, description="how long a retry waits for those before it to turn out"
    )


class RetryBudget:
    """Counts requests and retries in tenths of the window. One event loop uses it."""

    def __init__(self, settings: RetrySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._slice = settings.window / 10
        self._slices: deque[list[int]] = deque()
        self._offered = 0
        self._spent = 0
        self._pending = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def deposit(self) -> None:
        """A request came in."""
        self._current()[1] += 1
        self._offered += 1

    def spend(self) -> bool:
        """Take a retry if there is one left. Its outcome must be recorded."""
        current = self._current()
        if self._spent >= self._allowed():
            return False
        current[2] += 1
        self._spent += 1
        self._pending += 1
        return True

    async def acquire(self) -> bool:
        """Take a retry; when none is left, wait for those under way, whose success gives places back.

        Waits for ``patience`` at most, and not at all when no retry is under way.
        """
        deadline = self._clock.monotonic() + self._settings.patience
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
        """The end of an attempt; only those after a request's first were retries."""
        if outcome.attempt > 1:
            self.settle(outcome.result not in (Result.FAILED, Result.CANNOT))

    def settle(self, well: bool) -> None:
        """A retry turned out well, or not."""
        self._pending = max(0, self._pending - 1)
        if well and self._spent > 0:
            self._spent -= 1
            for one in reversed(self._slices):
                if one[2] > 0:
                    one[2] -= 1
                    break
        self._wake()

    def _wake(self) -> None:
        """Let those who wait look again: one per place, or all of them when nothing is under way any more."""
        places = self._allowed() - self._spent
        while self._waiting and (places > 0 or self._pending == 0):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                places -= 1

    def _allowed(self) -> int:
        return max(self._settings.minimum, int(self._settings.ratio * self._offered))

    def _current(self) -> list[int]:
        """The counts ``[slice, requests, retries]`` of the present slice, after forgetting the old ones."""
        now = int(self._clock.monotonic() / self._slice)
        while self._slices and self._slices[0][0] <= now - 10:
            _, offered, spent = self._slices.popleft()
            self._offered -= offered
            self._spent -= spent
            self._pending = min(self._pending, self._spent)
        if not self._slices or self._slices[-1][0] != now:
            self._slices.append([now, 0, 0])
        return self._slices[-1]
