"""Finds workers that compute although nobody asks them for anything.

A request that timed out or was left is over for the gateway, but native code may go on with it without end: a
model's chat template with an endless loop is rendered for ever, and llama.cpp cannot be told to stop. Such a
worker is ended; the next request starts another.
"""

from __future__ import annotations

import psutil

Rest = tuple[int, float | None]
"""A time of rest: the process, and when it was last used."""


class Runaways:
    """Remembers how much processor time each worker had used when its rest began. ``limit`` is in seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._began: dict[str, tuple[Rest, float]] = {}

    def sees(self, model: str, rest: Rest | None, used: float) -> bool:
        """Whether the worker has used too much since its rest began; ``rest`` is None while it is in use.

        ``used`` is all its processor time so far, in seconds.
        """
        if rest is None:
            self._began.pop(model, None)
            return False
        known = self._began.get(model)
        if known is None or known[0] != rest:
            self._began[model] = (rest, used)
            return False
        return used - known[1] > self._limit


def processor_time(pid: int) -> float:
    """Seconds that a process has computed; 0 when that cannot be known."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
