"""Expectations for every row of the catalogue as dense arrays, read by decisions in vectorised passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from catalog.index import Floats, Index
from routing.beliefs.posterior import COMPLEXITIES, TASKS, Evidence, QualityPosterior, clip_mean
from routing.beliefs.speed import SIZES, Pace, SpeedRatios

RECOVERY_SECONDS = 600.0
"""Time without a new failure after which a model's failures weigh 1/e."""


class Columns:
    """Expectations for the n rows of an index; position ``i`` of the last axis is row ``i``.

    ``mean``, ``strength`` and ``exploration_bonus`` have shape (tasks, complexities, n); ``observed``, the
    discounted number of explicit observations, and ``hinted``, the weight of implicit ones, have shape (tasks, n).
    By class of prompt size, with shape (SIZES,
    n): ``first_ratio``, the measured time to first token over the catalogue's; ``fixed_seconds`` per call;
    ``prompt_seconds`` and ``token_seconds`` per token of prompt and answer. ``failure_rate`` and ``failed_at``
    (wall clock) have shape (n,). A row whose successor is served by the same endpoint has no exploration bonus: a
    model that is known to be better is there to be tried instead.
    """

    def __init__(
        self,
        index: Index,
        priors: Sequence[tuple[Floats, float]],
        posterior: QualityPosterior,
        ratios: SpeedRatios,
    ) -> None:
        """``priors``: per row the mean by task, shape (tasks,), and the strength."""
        self._index = index
        self._posterior = posterior
        self._ratios = ratios
        count = len(index)
        means = clip_mean(np.array([mean for mean, _ in priors])).reshape(count, len(TASKS))
        strengths = np.array([strength for _, strength in priors])
        self.mean: Floats = np.repeat(means.T[:, None, :], len(COMPLEXITIES), axis=1)
        self.strength: Floats = np.empty_like(self.mean)
        for strength in set(strengths.tolist()):
            _, unobserved = posterior.posterior(Evidence.fresh(np.full(len(TASKS), 0.5), strength))
            self.strength[:, :, strengths == strength] = unobserved[:, :, None]
        self._superseded = index.superseded
        self.exploration_bonus: Floats = posterior.exploration_bonus(self.mean, self.strength)
        self.exploration_bonus[:, :, self._superseded] = 0.0
        self.observed: Floats = np.zeros((len(TASKS), count))
        self.hinted: Floats = np.zeros((len(TASKS), count))
        self.first_ratio: Floats = np.ones((SIZES, count))
        self.fixed_seconds: Floats = np.tile(index.base_seconds, (SIZES, 1))
        self.prompt_seconds: Floats = np.tile(1 / index.prefill, (SIZES, 1))
        self.token_seconds: Floats = np.tile(1 / index.decode, (SIZES, 1))
        self.failure_rate: Floats = np.zeros(count)
        self.failed_at: Floats = np.zeros(count)
        self._any_failed = False

    def set_quality(self, row: int, evidence: Evidence) -> None:
        """Compute a row's quality from its evidence."""
        mean, strength = self._posterior.posterior(evidence)
        self.mean[:, :, row], self.strength[:, :, row] = mean, strength
        if not self._superseded[row]:
            self.exploration_bonus[:, :, row] = self._posterior.exploration_bonus(mean, strength)
        self.observed[:, row] = evidence.counts.sum(axis=1)
        self.hinted[:, row] = evidence.hint_counts.sum(axis=1)

    def set_speed(self, row: int, pace: Pace) -> None:
        """Compute a row's speed and reliability from its pace."""
        first_ratios, token_ratios = self._ratios.by_size(pace)
        self.first_ratio[:, row] = first = np.array(first_ratios)
        self.fixed_seconds[:, row] = self._index.base_seconds[row] * first
        self.prompt_seconds[:, row] = first / self._index.prefill[row]
        self.token_seconds[:, row] = np.array(token_ratios) / self._index.decode[row]
        self.failure_rate[row] = self._ratios.failure_rate(pace)
        self._any_failed = self._any_failed or bool(self.failure_rate.item(row))
        self.failed_at[row] = pace.failed_at

    def reliability(self, wall: float | None) -> Floats | None:
        """Expected share of answered attempts at this wall time, shape (n,); ``None`` while no failure is known.

        Failures fade with the time since the last one; with ``wall`` of ``None`` they do not.
        """
        if not self._any_failed:
            return None
        if wall is None:
            return 1 - self.failure_rate
        faded: Floats = 1 - self.failure_rate * np.exp((self.failed_at - wall).clip(max=0) / RECOVERY_SECONDS)
        return faded
