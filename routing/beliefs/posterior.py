"""What is believed about quality: a Beta posterior per model, task and complexity that share evidence.

Each level borrows from the one above it (shrinkage). With ``p`` the prior mean of a cell and every
observation taken as a residual from it:

* a cell's residual counts for its task as ``n s / (n + s)`` observations, ``s`` the strength of the task
  over one complexity, so that no single cell can speak for its task however often it was seen;
* a task's residual counts for its model in the same way, from the second task on: one alone cannot tell what
  is the model's from what is the task's, so what is reported of one task moves no other (:func:`_agreed`, which
  looks at reports and at hints each by themselves);
* what a cell borrows is always estimated without the cell itself, so that no observation counts twice.

That is the closed form of a two-level random-effects model with known variance ratios (empirical Bayes;
Efron and Morris, 1975), in units of virtual Bernoulli observations. Exploiting a change needs forgetting:
:class:`QualityBook` watches each model with a two-sided CUSUM of log likelihood ratios (Page, 1954), and when
it fires what was believed, scaled by the change, becomes the prior of what is observed from then on.
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

_SEVERAL = 1.25
"""The effective number of tasks that are several."""
_NO_WEIGHT = 1e-12
_LOW, _HIGH = 0.005, 0.995


def believable(mean: Floats) -> Floats:
    """Means of quality, none so near to 0 or 1 that no observation could speak against it."""
    return np.clip(mean, _LOW, _HIGH)


@dataclass(slots=True)
class Evidence:
    """What was seen of one model. Arrays of shape (tasks, complexities) unless said otherwise.

    ``prior`` is the mean before any observation, shape (tasks,), worth ``strength`` observations.
    ``scores`` and ``counts`` are sums of score times confidence and of confidence: explicit ones, and
    implicit ones in ``hint_scores`` and ``hint_counts``. ``drop`` and ``rise`` are the change detector's two
    sums; ``since_*`` is what it has seen since each was last zero: scores, counts and expected scores.
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

    @classmethod
    def fresh(cls, prior: Floats, strength: float) -> Evidence:
        """Nothing observed yet."""
        return cls(
            prior=believable(prior),
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
        )

    def continue_watch(self, other: Evidence) -> None:
        """Go on with another's change detector, of the same model since the same change."""
        self.drop, self.rise = other.drop, other.rise
        self.since_drop, self.since_rise = other.since_drop, other.since_rise


class QualityBook:
    """The rules by which evidence becomes belief. The evidence itself is the estimator's."""

    def __init__(self, learning: Learning, signals: Signals) -> None:
        self._learning = learning
        self._hint_memory = signals.implicit_memory

    def observe(
        self, evidence: Evidence, task: int, complexity: int, score: float, confidence: float, belief: float
    ) -> bool:
        """Add one explicit observation of a cell, of which ``belief`` was the posterior mean until now.

        True when it convinced the detector of a change.
        """
        cell = (task, complexity)
        known = float(evidence.counts[cell])
        trust = known / (known + self._learning.change_patience)
        self.add(evidence, task, complexity, score, confidence)
        return self._watch(evidence, cell, score, confidence, belief, trust)

    def add(self, evidence: Evidence, task: int, complexity: int, score: float, confidence: float) -> None:
        """Add one explicit observation without asking whether it is a sign of change."""
        cell = (task, complexity)
        keep = math.exp(-confidence / self._learning.memory)
        evidence.scores[cell] = evidence.scores[cell] * keep + score * confidence
        evidence.counts[cell] = evidence.counts[cell] * keep + confidence
        evidence.seen += confidence

    def hint(self, evidence: Evidence, task: int, complexity: int, score: float, confidence: float) -> None:
        """Add one implicit observation; all of a cell's together weigh at most ``implicit_memory``."""
        cell = (task, complexity)
        keep = 1 - min(1.0, confidence / self._hint_memory)
        evidence.hint_scores[cell] = evidence.hint_scores[cell] * keep + score * confidence
        evidence.hint_counts[cell] = evidence.hint_counts[cell] * keep + confidence

    def posterior(self, evidence: Evidence) -> tuple[Floats, Floats]:
        """Mean and strength (virtual observations) of every cell, each of shape (tasks, complexities)."""
        rules = self._learning
        counts = evidence.counts + evidence.hint_counts
        residuals = evidence.scores + evidence.hint_scores - counts * evidence.prior[:, None]

        lent = rules.complexity_strength / (counts + rules.complexity_strength)
        cell_weight = counts * lent
        cell_sum = residuals * lent
        task_weight = cell_weight.sum(axis=1)
        task_sum = cell_sum.sum(axis=1)

        lent_up = rules.task_strength / (task_weight + rules.task_strength)
        shift, others = np.zeros(len(TASKS)), np.full(len(TASKS), evidence.strength)
        for scores, known in self._kinds(evidence):
            up_weight = (known * lent).sum(axis=1) * lent_up
            up_sum = ((scores - known * evidence.prior[:, None]) * lent).sum(axis=1) * lent_up
            agreed = _agreed(up_weight)
            others += agreed * (up_weight.sum() - up_weight)
            shift += agreed * (up_sum.sum() - up_sum)
        shift /= others
        task_strength = 1 / (1 / rules.task_strength + 1 / others)

        around_weight = task_strength[:, None] + task_weight[:, None] - cell_weight
        around_shift = ((task_strength * shift)[:, None] + task_sum[:, None] - cell_sum) / around_weight
        cell_strength = 1 / (1 / rules.complexity_strength + 1 / around_weight)

        strength = cell_strength + counts
        mean = evidence.prior[:, None] + (cell_strength * around_shift + residuals) / strength
        return believable(mean), strength

    @staticmethod
    def _kinds(evidence: Evidence) -> Iterator[tuple[Floats, Floats]]:
        """Scores and counts of reports and of hints, of those there are: each kind speaks for itself."""
        if evidence.counts.any():
            yield evidence.scores, evidence.counts
        if evidence.hint_counts.any():
            yield evidence.hint_scores, evidence.hint_counts

    def doubt(self, mean: Floats, strength: Floats) -> Floats:
        """How far each belief may be off and still be worth a try, for ``optimism`` 1; the arguments' shape.

        ``sqrt(log(1 + horizon / strength))`` standard deviations: of a Beta with this mean and strength, the
        variance is ``mean (1 - mean) / (strength + 1)``.
        """
        doubt: Floats = np.sqrt(np.log1p(self._learning.horizon / strength) * mean * (1 - mean) / (strength + 1))
        return doubt

    def _watch(
        self,
        evidence: Evidence,
        cell: tuple[int, int],
        score: float,
        confidence: float,
        belief: float,
        trust: float,
    ) -> bool:
        ratio = self._learning.change_ratio
        weight = confidence * trust
        worse = belief * ratio
        better = 1 - (1 - belief) * ratio
        evidence.drop = _step(evidence.drop, evidence.since_drop, cell, score, confidence, belief, worse, weight)
        evidence.rise = _step(evidence.rise, evidence.since_rise, cell, score, confidence, belief, better, weight)
        threshold = self._learning.change_threshold
        if evidence.drop > threshold:
            self._forget(evidence, evidence.since_drop, fell=True)
        elif evidence.rise > threshold:
            self._forget(evidence, evidence.since_rise, fell=False)
        else:
            return False
        return True

    def _forget(self, evidence: Evidence, since: Floats, *, fell: bool) -> None:
        """Take what was believed, scaled by the change since it began, for the prior of what was seen since."""
        mean, _ = self.posterior(evidence)
        weights = evidence.counts + evidence.hint_counts + 1e-6
        level = (mean * weights).sum(axis=1) / weights.sum(axis=1)
        scores, counts, expected = (float(part.sum()) for part in since)
        seen = since[1].sum(axis=1)
        meant = np.where(seen > 0, 1.0, _agreed(seen))  # a change of one task alone is no other's
        if fell:
            left = min(1.0, (scores + 0.5) / (expected + 0.5))
            level = level * (1 - meant * (1 - left))
        else:
            left = min(1.0, (counts - scores + 0.5) / (counts - expected + 0.5))
            level = 1 - (1 - level) * (1 - meant * (1 - left))
        evidence.prior = believable(level)
        evidence.strength = min(evidence.strength, self._learning.prior_strength)
        evidence.scores = since[0].copy()
        evidence.counts = since[1].copy()
        evidence.hint_scores = np.zeros(SHAPE)
        evidence.hint_counts = np.zeros(SHAPE)
        evidence.drop = evidence.rise = 0.0
        evidence.since_drop = np.zeros((3, *SHAPE))
        evidence.since_rise = np.zeros((3, *SHAPE))
        evidence.changes += 1


def _agreed(weights: Floats) -> Floats:
    """For each task, whether the *others* can speak for the model and not for themselves: 0 (one) to 1 (several).

    It counts them by Kish's effective number, ``(sum w)^2 / sum w^2``, which is 1 when all the weight is one
    task's: a second task with an eighth of the first one's weight is enough for all of it. Shape (tasks,).
    """
    total, squares = weights.sum() - weights, weights * weights
    squares = squares.sum() - squares
    number = np.divide(total * total, squares, out=np.ones_like(total), where=squares > _NO_WEIGHT)
    agreed: Floats = np.clip((number - 1.0) / (_SEVERAL - 1.0), 0.0, 1.0)
    return agreed


def _step(
    total: float,
    since: Floats,
    cell: tuple[int, int],
    score: float,
    confidence: float,
    before: float,
    after: float,
    weight: float,
) -> float:
    """One step of a CUSUM: the evidence for ``after`` over ``before``, never below zero."""
    gain = score * math.log(after / before) + (1 - score) * math.log((1 - after) / (1 - before))
    total = max(0.0, total + weight * gain)
    if total == 0.0:
        since[:] = 0.0
    else:
        since[0][cell] += score * confidence
        since[1][cell] += confidence
        since[2][cell] += before * confidence
    return total
