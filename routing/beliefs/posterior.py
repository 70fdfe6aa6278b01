"""The posterior of quality: a Beta distribution per model, task and complexity, with shrinkage between them.

Each level borrows from the one above it. With every observation taken as a residual from its cell's prior mean:

* a cell's residual counts for its task as ``n s / (n + s)`` observations, where ``s`` is the strength of the task
  over one complexity: a single cell cannot determine its task, however often it was observed;
* a task's residual counts for its model in the same way, but only if several tasks were observed. One task cannot
  separate the effect of the model from that of the task, so its observations move no other task
  (:func:`_agreement`, computed for reports and for hints separately);
* what a cell borrows is estimated without the cell itself, so no observation counts twice.

This is the closed form of a two-level random-effects model with known variance ratios (empirical Bayes; Efron and
Morris, 1975), in units of virtual Bernoulli observations. A two-sided CUSUM of log likelihood ratios (Page, 1954)
detects a change of a model. The old posterior mean, scaled by the change, then becomes the prior of the
observations since the change began.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from catalog.index import Floats
from routing.facts import Complexity, Task
from routing.settings import Learning, Signals

TASKS: tuple[Task, ...] = tuple(Task)
COMPLEXITIES: tuple[Complexity, ...] = tuple(Complexity)
TASK_AT = {task: position for position, task in enumerate(TASKS)}
COMPLEXITY_AT = {complexity: position for position, complexity in enumerate(COMPLEXITIES)}
SHAPE = (len(TASKS), len(COMPLEXITIES))

_ENOUGH_TASKS = 1.05
"""Effective number of other tasks from which they lend all of their weight."""
_NO_WEIGHT = 1e-12
_MIN_MEAN, _MAX_MEAN = 0.005, 0.995


def clip_mean(mean: Floats) -> Floats:
    """Means of quality kept away from 0 and 1, where no observation could change them."""
    return np.clip(mean, _MIN_MEAN, _MAX_MEAN)


@dataclass(slots=True)
class Evidence:
    """Sufficient statistics of one model's observations. Arrays of shape (tasks, complexities) unless noted.

    ``prior`` is the mean before any observation, shape (tasks,), worth ``strength`` observations. ``scores`` and
    ``counts`` are discounted sums of score times confidence and of confidence, of explicit observations; those of
    implicit ones are ``hint_scores`` and ``hint_counts``. ``drop`` and ``rise`` are the two sums of the change
    detector; ``since_*``, shape (3, tasks, complexities), sums what came since each was last zero: scores, counts
    and expected scores. ``seen`` is the total confidence, ``changes`` the number of changes detected.
    ``imported`` names the origin of a prior that an operator imported; it is empty where the prior is the
    catalogue's.
    """

    prior: Floats
    strength: float
    scores: Floats
    counts: Floats
    hint_scores: Floats
    hint_counts: Floats
    drop: float
    rise: float
    since_drop: Floats
    since_rise: Floats
    seen: float
    changes: int
    imported: str

    @classmethod
    def fresh(cls, prior: Floats, strength: float, imported: str = "") -> Evidence:
        """Evidence without observations."""
        return cls(
            prior=clip_mean(prior),
            strength=strength,
            scores=np.zeros(SHAPE),
            counts=np.zeros(SHAPE),
            hint_scores=np.zeros(SHAPE),
            hint_counts=np.zeros(SHAPE),
            drop=0.0,
            rise=0.0,
            since_drop=np.zeros((3, *SHAPE)),
            since_rise=np.zeros((3, *SHAPE)),
            seen=0.0,
            changes=0,
            imported=imported,
        )

    @property
    def has_observations(self) -> bool:
        """Whether anything was observed, explicitly or implicitly."""
        return bool(self.counts.any() or self.hint_counts.any())

    @property
    def prior_is_the_catalogues(self) -> bool:
        """Whether the prior is still that of the catalogue's row, and follows it when that changes."""
        return not self.imported and not self.changes

    def copy_detector(self, other: Evidence) -> None:
        """Take the change detector's sums of other evidence of the same model since the same change."""
        self.drop, self.rise = other.drop, other.rise
        self.since_drop, self.since_rise = other.since_drop, other.since_rise


class QualityPosterior:
    """Updates evidence and computes posteriors from it. It holds settings only."""

    def __init__(self, learning: Learning, signals: Signals) -> None:
        self._learning = learning
        self._hint_memory = signals.implicit_memory

    def observe(
        self, evidence: Evidence, task: int, complexity: int, score: float, confidence: float, mean: float
    ) -> bool:
        """Add one explicit observation to a cell whose posterior mean was ``mean`` before it.

        True when the change detector fired.
        """
        cell = (task, complexity)
        known = float(evidence.counts[cell])
        trust = known / (known + self._learning.change_patience)
        self.add(evidence, task, complexity, score, confidence)
        return self._detect_change(evidence, cell, score, confidence, mean, trust)

    def add(self, evidence: Evidence, task: int, complexity: int, score: float, confidence: float) -> None:
        """Add one explicit observation without updating the change detector."""
        cell = (task, complexity)
        keep = math.exp(-confidence / self._learning.memory)
        evidence.scores[cell] = evidence.scores[cell] * keep + score * confidence
        evidence.counts[cell] = evidence.counts[cell] * keep + confidence
        evidence.seen += confidence

    def hint(self, evidence: Evidence, task: int, complexity: int, score: float, confidence: float) -> None:
        """Add one implicit observation; all those of a cell together weigh at most ``implicit_memory``."""
        cell = (task, complexity)
        keep = 1 - min(1.0, confidence / self._hint_memory)
        evidence.hint_scores[cell] = evidence.hint_scores[cell] * keep + score * confidence
        evidence.hint_counts[cell] = evidence.hint_counts[cell] * keep + confidence

    def posterior(self, evidence: Evidence) -> tuple[Floats, Floats]:
        """Mean and strength (virtual observations) of every cell, each of shape (tasks, complexities)."""
        rules = self._learning
        counts = evidence.counts + evidence.hint_counts
        residuals = evidence.scores + evidence.hint_scores - counts * evidence.prior[:, None]

        to_task = rules.complexity_strength / (counts + rules.complexity_strength)
        cell_weight = counts * to_task
        cell_sum = residuals * to_task
        task_weight = cell_weight.sum(axis=1)
        task_sum = cell_sum.sum(axis=1)

        # A task borrows from the other tasks of its model.
        to_model = rules.task_strength / (task_weight + rules.task_strength)
        model_shift, model_strength = np.zeros(len(TASKS)), np.full(len(TASKS), evidence.strength)
        for scores, known in self._observed_kinds(evidence):
            lent_weight = (known * to_task).sum(axis=1) * to_model
            lent_sum = ((scores - known * evidence.prior[:, None]) * to_task).sum(axis=1) * to_model
            agreement = _agreement(lent_weight)
            model_strength += agreement * (lent_weight.sum() - lent_weight)
            model_shift += agreement * (lent_sum.sum() - lent_sum)
        model_shift /= model_strength
        task_strength = 1 / (1 / rules.task_strength + 1 / model_strength)

        # A cell borrows from its task, without the cell itself.
        parent_weight = task_strength[:, None] + task_weight[:, None] - cell_weight
        parent_shift = ((task_strength * model_shift)[:, None] + task_sum[:, None] - cell_sum) / parent_weight
        cell_strength = 1 / (1 / rules.complexity_strength + 1 / parent_weight)

        strength = cell_strength + counts
        mean = evidence.prior[:, None] + (cell_strength * parent_shift + residuals) / strength
        return clip_mean(mean), strength

    @staticmethod
    def _observed_kinds(evidence: Evidence) -> Iterator[tuple[Floats, Floats]]:
        """Scores and counts of reports and of hints, of each kind of which there are any."""
        if evidence.counts.any():
            yield evidence.scores, evidence.counts
        if evidence.hint_counts.any():
            yield evidence.hint_scores, evidence.hint_counts

    def exploration_bonus(self, mean: Floats, strength: Floats) -> Floats:
        """Distance of an optimistic quality above its mean, for ``optimism`` 1, in the shape of the arguments.

        It is ``log(1 + horizon / strength)`` standard deviations of a Beta with this mean and strength, whose
        variance is ``mean (1 - mean) / (strength + 1)``. The textbook's rate for a known horizon is the root of
        that logarithm (Kaufmann, 2018), which explores for longer what is known well.
        """
        bonus: Floats = np.log1p(self._learning.horizon / strength) * np.sqrt(mean * (1 - mean) / (strength + 1))
        return bonus

    def _detect_change(
        self,
        evidence: Evidence,
        cell: tuple[int, int],
        score: float,
        confidence: float,
        mean: float,
        trust: float,
    ) -> bool:
        """One step of both sums of the CUSUM; ``trust`` discounts cells that were rarely observed."""
        ratio = self._learning.change_ratio
        weight = confidence * trust
        worse = mean * ratio
        better = 1 - (1 - mean) * ratio
        evidence.drop = _cusum_step(
            evidence.drop, evidence.since_drop, cell, score, confidence, mean, worse, weight
        )
        evidence.rise = _cusum_step(
            evidence.rise, evidence.since_rise, cell, score, confidence, mean, better, weight
        )
        threshold = self._learning.change_threshold
        if evidence.drop > threshold:
            self._restart(evidence, evidence.since_drop, fell=True)
        elif evidence.rise > threshold:
            self._restart(evidence, evidence.since_rise, fell=False)
        else:
            return False
        return True

    def _restart(self, evidence: Evidence, since: Floats, *, fell: bool) -> None:
        """Make the mean of every task, scaled by the change, the prior of the observations since it began."""
        mean, _ = self.posterior(evidence)
        weights = evidence.counts + evidence.hint_counts + 1e-6
        level = (mean * weights).sum(axis=1) / weights.sum(axis=1)
        scores, counts, expected = (float(part.sum()) for part in since)
        seen = since[1].sum(axis=1)
        affected = np.where(seen > 0, 1.0, _agreement(seen))  # a change of one task alone moves no other
        if fell:
            left = min(1.0, (scores + 0.5) / (expected + 0.5))
            level = level * (1 - affected * (1 - left))
        else:
            left = min(1.0, (counts - scores + 0.5) / (counts - expected + 0.5))
            level = 1 - (1 - level) * (1 - affected * (1 - left))
        evidence.prior = clip_mean(level)
        evidence.strength = min(evidence.strength, self._learning.prior_strength)
        evidence.scores = since[0].copy()
        evidence.counts = since[1].copy()
        evidence.hint_scores = np.zeros(SHAPE)
        evidence.hint_counts = np.zeros(SHAPE)
        evidence.drop = evidence.rise = 0.0
        evidence.since_drop = np.zeros((3, *SHAPE))
        evidence.since_rise = np.zeros((3, *SHAPE))
        evidence.changes += 1


def _agreement(weights: Floats) -> Floats:
    """For each task, the share of the *other* tasks' weight that it may borrow, shape (tasks,).

    It grows with Kish's effective number of the other tasks, ``(sum w)^2 / sum w^2``: from 0 when one of them has
    all the weight to 1 at ``_ENOUGH_TASKS``: there a second task has a fortieth of the first one's weight.
    """
    total, squares = weights.sum() - weights, weights * weights
    squares = squares.sum() - squares
    number = np.divide(total * total, squares, out=np.ones_like(total), where=squares > _NO_WEIGHT)
    agreement: Floats = np.clip((number - 1.0) / (_ENOUGH_TASKS - 1.0), 0.0, 1.0)
    return agreement


def _cusum_step(
    total: float,
    since: Floats,
    cell: tuple[int, int],
    score: float,
    confidence: float,
    before: float,
    after: float,
    weight: float,
) -> float:
    """One step of a CUSUM: the evidence for a mean of ``after`` over ``before``, never below zero.

    ``since`` sums the observations since the total was last zero.
    """
    gain = score * math.log(after / before) + (1 - score) * math.log((1 - after) / (1 - before))
    total = max(0.0, total + weight * gain)
    if total == 0.0:
        since[:] = 0.0
    else:
        since[0][cell] += score * confidence
        since[1][cell] += confidence
        since[2][cell] += before * confidence
    return total
