"""Clocks: a monotonic one for durations and a wall clock for records."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import structlog

_MIN_STEP = 60.0
"""Seconds by which the system clock may differ from the monotonic one between two readings, without remark."""


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
    latest value returned, time advances with the monotonic clock, so windows still end. A step of the system clock
    of more than a minute is passed to ``on_step``, in seconds.
    """

    def __init__(self, clock: Clock, on_step: Callable[[float], None] = lambda _: None) -> None:
        self._clock = clock
        self._on_step = on_step
        self._system = self._wall = clock.wall()
        self._read_at = clock.monotonic()

    def __call__(self) -> float:
        monotonic, system = self._clock.monotonic(), self._clock.wall()
        passed = max(0.0, monotonic - self._read_at)
        step = system - self._system - passed
        self._wall = max(system, self._wall + passed)
        self._system, self._read_at = system, monotonic
        if abs(step) > _MIN_STEP:
            self._on_step(step)
        return self._wall


def log_step(seconds: float) -> None:
    """Log that the system clock was set, or the machine asleep."""
    structlog.get_logger("roundhouse.clock").warning("clock.stepped", seconds=round(seconds, 1))
