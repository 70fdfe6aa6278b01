"""How fast a model really is here, learned as a ratio to what the catalogue says, per prompt size.

Ratios are averaged as logarithms, so that one stall does not outweigh ten normal calls, and what was learned
at one prompt size is borrowed at the others until they are seen themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from routing.index import Floats
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


@dataclass(slots=True)
class Pace:
    """One model's speed and reliability. Log ratios and their weights have shape (SIZES,).

    ``first_*`` is of the time to the first token (or to the whole answer, where there are no tokens);
    ``token_*`` of the seconds per token after it. ``busy`` is the mean seconds a call takes a slot.
    ``attempts`` and ``failures`` are discounted counts; ``failed_at`` is of the wall clock.
    """

    first_logs: Floats = field(default_factory=lambda: np.zeros(SIZES))
    first_weights: Floats = field(default_factory=lambda: np.zeros(SIZES))
    token_logs: Floats = field(default_factory=lambda: np.zeros(SIZES))
    token_weights: Floats = field(default_factory=lambda: np.zeros(SIZES))
    busy: float = 0.0
    attempts: float = 0.0
    failures: float = 0.0
    failed_at: float = 0.0


class SpeedBook:
    """The rules by which times become expectations."""

    def __init__(self, learning: Learning) -> None:
        self._keep = float(np.exp(-1 / learning.speed_memory))
        self._prior = learning.speed_prior
        self._keep_attempt = float(np.exp(-1 / learning.reliability_memory))

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

    def factors(self, pace: Pace) -> tuple[Floats, Floats]:
        """Expected ratios to the catalogue, first token and per token, each of shape (SIZES,)."""
        return self._factor(pace.first_logs, pace.first_weights), self._factor(pace.token_logs, pace.token_weights)

    @staticmethod
    def unreliability(pace: Pace) -> float:
        """The share of attempts that failed, as if four had succeeded before."""
        return pace.failures / (pace.attempts + 4)

    def _add(self, logs: Floats, weights: Floats, size: int, ratio: float) -> None:
        log = max(-_EXTREME, min(_EXTREME, math.log(max(ratio, 1e-9))))
        logs[size] = logs[size] * self._keep + log
        weights[size] = weights[size] * self._keep + 1

    def _factor(self, logs: Floats, weights: Floats) -> Floats:
        overall = logs.sum() / (weights.sum() + self._prior)
        factor: Floats = np.exp((logs + self._prior * overall) / (weights + self._prior))
        return factor
