"""Clocks: a monotonic one for durations and a wall clock for records."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds: ``monotonic`` for durations and deadlines, ``wall`` (Unix time) for records and windows."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The clocks of the operating system."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class SteadyWallClock:
    """Wall time (Unix seconds) that never decreases.

    A spending window must not begin twice when the system clock is set back. While the system clock is behind the
    latest value returned, time advances with the monotonic clock, so windows still end.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall = clock.wall()
        self._read_at = clock.monotonic()

    def __call__(self) -> float:
        monotonic = self._clock.monotonic()
        self._wall = max(self._clock.wall(), self._wall + max(0.0, monotonic - self._read_at))
        self._read_at = monotonic
        return self._wall
