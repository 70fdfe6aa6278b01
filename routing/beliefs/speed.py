"""Measured speed and reliability of a model. Speed is a ratio to the catalogue's figures, by class of prompt size.

Ratios are averaged as logarithms, so that one stall does not outweigh ten normal calls. A class borrows from the
others until it was observed itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from routing.settings import Learning

PROMPT_EDGES = (128, 512, 2048, 8192, 32768)
"""Prompt sizes in tokens at which a new class begins."""
SIZES = len(PROMPT_EDGES) + 1
_MAX_LOG_RATIO = math.log(1000)


def size_class(prompt_tokens: int) -> int:
    """The class of a prompt's size, 0 to ``SIZES - 1``."""
    for position, edge in enumerate(PROMPT_EDGES):
        if prompt_tokens < edge:
            return position
    return SIZES - 1


def _zeros() -> list[float]:
    return [0.0] * SIZES


@dataclass(slots=True)
class Pace:
    """Statistics of one model's speed and reliability. Logs and weights are lists of ``SIZES`` items.

    ``first_*`` is about the time to the first token (to the whole answer, if it is not decoded), ``token_*`` about
    the seconds per token after it: discounted sums of log ratios and of their number. ``busy`` is the mean seconds
    that a call takes a slot. ``attempts`` and ``failures`` are discounted counts; ``failed_at`` is wall-clock
    time.
    """

    first_logs: list[float] = field(default_factory=_zeros)
    first_weights: list[float] = field(default_factory=_zeros)
    token_logs: list[float] = field(default_factory=_zeros)
    token_weights: list[float] = field(default_factory=_zeros)
    busy: float = 0.0
    attempts: float = 0.0
    failures: float = 0.0
    failed_at: float = 0.0


class SpeedRatios:
    """Updates paces and computes expected ratios from them. It holds settings only."""

    def __init__(self, learning: Learning) -> None:
        self._keep = math.exp(-1 / learning.speed_memory)
        self._prior = learning.speed_prior
        self._keep_attempt = math.exp(-1 / learning.reliability_memory)

    def observe_first(self, pace: Pace, size: int, ratio: float) -> None:
        """Add a time to the first token, as a ratio to the catalogue's."""
        self._add(pace.first_logs, pace.first_weights, size, ratio)

    def observe_token(self, pace: Pace, size: int, ratio: float) -> None:
        """Add a time per token, as a ratio to the catalogue's."""
        self._add(pace.token_logs, pace.token_weights, size, ratio)

    def observe_busy(self, pace: Pace, seconds: float) -> None:
        """Add the seconds that a call held its slot."""
        pace.busy = seconds if pace.busy == 0.0 else pace.busy * self._keep + seconds * (1 - self._keep)

    def observe_attempt(self, pace: Pace, *, failed: bool, at: float) -> None:
        """Add an attempt at wall-clock time ``at`` whose result was due to the model or its upstream."""
        pace.attempts = pace.attempts * self._keep_attempt + 1
        pace.failures = pace.failures * self._keep_attempt + failed
        if failed:
            pace.failed_at = at

    def by_size(self, pace: Pace) -> tuple[list[float], list[float]]:
        """Expected ratios to the catalogue, of first token and per token, by class of prompt size."""
        return self._all(pace.first_logs, pace.first_weights), self._all(pace.token_logs, pace.token_weights)

    def first_ratio(self, pace: Pace, size: int) -> float:
        """The first of :meth:`by_size` for one class."""
        return self._one(pace.first_logs, pace.first_weights, size)

    def token_ratio(self, pace: Pace, size: int) -> float:
        """The second of :meth:`by_size` for one class."""
        return self._one(pace.token_logs, pace.token_weights, size)

    @staticmethod
    def failure_rate(pace: Pace) -> float:
        """The share of attempts that failed, with four successes as a prior."""
        return pace.failures / (pace.attempts + 4)

    def _add(self, logs: list[float], weights: list[float], size: int, ratio: float) -> None:
        log = max(-_MAX_LOG_RATIO, min(_MAX_LOG_RATIO, math.log(max(ratio, 1e-9))))
        logs[size] = logs[size] * self._keep + log
        weights[size] = weights[size] * self._keep + 1

    def _one(self, logs: list[float], weights: list[float], size: int) -> float:
        return self._blend(logs[size], weights[size], self._overall(logs, weights))

    def _all(self, logs: list[float], weights: list[float]) -> list[float]:
        overall = self._overall(logs, weights)
        return [self._blend(log, weight, overall) for log, weight in zip(logs, weights, strict=True)]

    def _overall(self, logs: list[float], weights: list[float]) -> float:
        return sum(logs) / (sum(weights) + self._prior)

    def _blend(self, log: float, weight: float, overall: float) -> float:
        return math.exp((log + self._prior * overall) / (weight + self._prior))
