"""Detects idle workers that keep computing, so that the supervisor can stop them.

After a timeout or a disconnect the gateway's request is over, but native code may continue without end: a chat
template with an endless loop is rendered for ever, and llama.cpp has no way to interrupt it.
"""

from __future__ import annotations

import psutil

Rest = tuple[int, float | None]
"""An idle period of a worker, identified by its process id and the time of its last use."""


class RunawayDetector:
    """Measures the processor time that workers use within an idle period; ``limit`` is in seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._began: dict[str, tuple[Rest, float]] = {}

    def check(self, model: str, rest: Rest | None, used: float) -> bool:
        """Whether the worker has used more than the limit since its idle period began.

        ``rest`` is None while it is in use; ``used`` is its total processor time so far, in seconds.
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
    """Return the processor time of a process in seconds; 0 if unknown."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
