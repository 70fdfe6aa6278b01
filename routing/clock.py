"""Time as the router needs it: one clock that never jumps for durations, one that people read for records."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds: ``monotonic`` for durations and deadlines, ``wall`` (Unix time) for records and windows."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class SteadyWall:
    """Wall time that follows the machine's clock forwards and never goes back.

    A budget's day must not begin again because somebody set the clock back. While the machine's clock is
    behind what was already seen, time goes on at the monotonic clock's pace, so windows still turn.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall = clock.wall()
        self._at = clock.monotonic()

    def __call__(self) -> float:
        monotonic = self._clock.monotonic()
        self._wall = max(self._clock.wall(), self._wall + max(0.0, monotonic - self._at))
        self._at = monotonic
        return self._wall
