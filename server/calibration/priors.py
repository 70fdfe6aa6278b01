"""Priors from scores: few questions say little, so the mean is drawn to the prior that stood before.

The questions of several calibrations count together, each once, whichever tasks the latest one measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from catalog.types import Json
from routing.beliefs.priors import Prior
from routing.facts import Task
from server.calibration.subjects import SUBJECTS

ORIGIN = "calibration"
"""The beginning of the origin of a prior that was measured."""
PRIOR_QUESTIONS = 4.0
"""Questions that the prior from before weighs as much as: the posterior mean of a Beta distribution."""
_SAME = 5e-4
"""Difference below which two priors are the same, as records hold them rounded."""


@dataclass(frozen=True, slots=True)
class Base:
    """The prior of a model beneath what calibrations measured: mean by task, worth ``strength`` observations."""

    mean: Mapping[Task, float]
    strength: float


def base_of(prior: Prior, results: Sequence[Json]) -> Base:
    """The base of a prior. ``results`` are a model's parts of calibrations, the latest first.

    A task that none of them has was never measured, or too long ago to be known: there the prior is the base.
    """
    mean = {task: float(prior.mean[at]) for at, task in enumerate(Task)}
    if not prior.reason.startswith(ORIGIN):
        return Base(mean, prior.strength)
    for result in reversed(results):
        mean |= {task: found for task in Task if (found := _before(result, task)) is not None}
    strengths = [result["strength_before"] for result in results if result.get("strength_before") is not None]
    return Base(mean, strengths[0] if strengths else prior.strength)


def counted(own: Json, earlier: Iterable[Json], model: str, base: Base) -> dict[Task, list[float]]:
    """The scores of a model by task, each question once: the same seed, subject and number are the same question.

    ``own`` is a calibration, before which the ``earlier`` ones were, the latest first. Of those, the tasks count
    that started from the same base: an import since then replaced what they measured. None of a task that ``own``
    measures afresh counts.
    """
    known = {subject.id for subject in SUBJECTS}
    afresh = {told["task"] for told in own["results"][model]["subjects"].values()} if own.get("fresh") else set()
    found: dict[tuple[int, str, int], tuple[Task, float]] = {}
    for body in (own, *earlier):
        result = body["results"].get(model, {})
        for name, told in result.get("subjects", {}).items():
            task = Task(told["task"])
            if body is not own:
                before = _before(result, task)
                if task in afresh or before is None or abs(before - base.mean[task]) > _SAME:
                    continue
            if name in known:
                for number, score in enumerate(told["scores"]):
                    found.setdefault((body["seed"], name, number), (task, score))
    scores: dict[Task, list[float]] = {}
    for task, score in found.values():
        scores.setdefault(task, []).append(score)
    return scores


def strength_of(scores: Mapping[Task, Sequence[float]], tasks: int, base: Base, most: float) -> float:
    """Observations that a measured prior is worth: those of its base, and the mean questions of all ``tasks``.

    It is ``most`` at most, or what the base was worth before.
    """
    return max(base.strength, min(most, base.strength + sum(map(len, scores.values())) / max(1, tasks)))


def blended(scores: Mapping[Task, Sequence[float]], before: Mapping[Task, float]) -> dict[Task, float]:
    """The prior of each measured task, in [0, 1]."""
    return {
        task: (sum(own) + PRIOR_QUESTIONS * before[task]) / (len(own) + PRIOR_QUESTIONS)
        for task, own in scores.items()
    }


def _before(result: Json, task: Task) -> float | None:
    told = result.get("priors", {}).get(task.value)
    return None if told is None else float(told["before"])
