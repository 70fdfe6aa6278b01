"""A clock that only moves when a test says so."""

from __future__ import annotations


class ManualClock:
    """Monotonic seconds and wall seconds; ``advance`` moves both, ``set_wall`` sets the wall clock only."""

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        self._monotonic += seconds
        self._wall += seconds

    def set_wall(self, wall: float) -> None:
        self._wall = wall
