"""Priors from scores: few questions say little, so the mean is drawn to the prior that stood before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from routing.facts import Task

PRIOR_QUESTIONS = 4.0
"""Questions that the prior from before weighs as much as: the posterior mean of a Beta distribution."""


def blended(scores: Mapping[Task, Sequence[float]], before: Mapping[Task, float]) -> dict[Task, float]:
    """The prior of each measured task, in [0, 1]."""
    return {
        task: (sum(own) + PRIOR_QUESTIONS * before[task]) / (len(own) + PRIOR_QUESTIONS)
        for task, own in scores.items()
    }
