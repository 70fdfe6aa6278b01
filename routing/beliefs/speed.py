"""How fast a model really is here, learned as a ratio to what the catalogue says, per prompt size.

Ratios are averaged as logarithms, so that one stall does not outweigh ten normal calls, and what was learned
at one prompt size is borrowed at the others until they are seen themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from routing.settings import Learning

PROMPT_EDGES = (128, 512, 2048, 8192, 32768)
"""Prompt sizes, tokens, at which a new class of speed begins."""
SIZES = len(PROMPT_EDGES) + 1
_EXTREME = math.log(1000)


def size_class(prompt_tokens: int) -> int:
    """The class of prompt sizes, 0 to ``SIZES - 1``, that a prompt belongs to."""
    for position, edge in enumerate(PROMPT_EDGES):
        if prompt_tokens < edge:
            return position
    return SIZES - 1


def _zeros() -> list[float]:
    return [0.0] * SIZES


@dataclass(slots=True)
class Pace:
    """One model's speed and reliability. Log ratios and their weights are ``SIZES`` each: too few for an array.

    ``first_*`` is of the time to the first token (or to the whole answer, where there are no tokens);
    ``token_*`` of the seconds per token after it. ``busy`` is the mean seconds a call takes a slot.
    ``attempts`` and ``failures`` are discounted counts; ``failed_at`` is of the wall clock.
    """

    first_logs: list[float] = field(default_factory=_zeros)
    first_weights: list[float] = field(default_factory=_zeros)
    token_logs: list[float] = field(default_factory=_zeros)
    token_weights: list[float] = field(default_factory=_zeros)
    busy: float = 0.0
    attempts: float = 0.0
    failures: float = 0.0
    failed_at: float = 0.0


class SpeedBook:
    """The rules by which times become expectations."""

    def __init__(self, learning: Learning) -> None:
        self._keep = math.exp(-1 / learning.speed_memory)
        self._prior = learning.speed_prior
        self._keep_attempt = math.exp(-1 / learning.reliability_memory)

    def first(self, pace: Pace, size: int, ratio: float) -> None:
        """The first token took ``ratio`` times what the catalogue expects."""
        self._add(pace.first_logs, pace.first_weights, size, ratio)

    def token(self, pace: Pace, size: int, ratio: float) -> None:
        """A token took ``ratio`` times what the catalogue expects."""
        self._add(pace.token_logs, pace.token_weights, size, ratio)

    def occupied(self, pace: Pace, seconds: float) -> None:
        """A call held its slot for so long."""
        pace.busy = seconds if pace.busy == 0.0 else pace.busy * self._keep + seconds * (1 - self._keep)

    def attempted(self, pace: Pace, *, failed: bool, at: float) -> None:
        """An attempt that the model or its way there answered for."""
        pace.attempts = pace.attempts * self._keep_attempt + 1
        pace.failures = pace.failures * self._keep_attempt + failed
        if failed:
            pace.failed_at = at

    def factors(self, pace: Pace) -> tuple[list[float], list[float]]:
        """Expected ratios to the catalogue, first token and per token, by class of prompt sizes."""
        return self._all(pace.first_logs, pace.first_weights), self._all(pace.token_logs, pace.token_weights)

    def first_factor(self, pace: Pace, size: int) -> float:
        """The first of :meth:`factors` for one class of prompt sizes."""
        return self._one(pace.first_logs, pace.first_weights, size)

    def token_factor(self, pace: Pace, size: int) -> float:
        """The second of :meth:`factors` for one class of prompt sizes."""
        return self._one(pace.token_logs, pace.token_weights, size)

    @staticmethod
    def unreliability(pace: Pace) -> float:
        """The share of attempts that failed, as if four had succeeded before."""
        return pace.failures / (pace.attempts + 4)

    def _add(self, logs: list[float], weights: list[float], size: int, ratio: float) -> None:
        log = max(-_EXTREME, min(_EXTREME, math.log(max(ratio, 1e-9))))
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
