"""Priors of quality: from a model's benchmarks, else from its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from catalog.index import Floats
from catalog.model import Capability, Model
from routing.beliefs.posterior import TASKS
from routing.settings import Learning

_OVERALL = "overall"


def prior_of(model: Model, means: Mapping[Capability, Floats], rules: Learning) -> tuple[Floats, float]:
    """Mean per task, shape (tasks,), and strength in virtual observations.

    Benchmarks are used where the row has them, else a guess from the size with a lower strength. Benchmarks of
    some tasks do not carry over to others: without an ``overall`` one the strength is that of a guess. Benchmarks
    are noisy, so the best of many is likely too high and the worst too low. Only ``benchmark_trust`` of the
    distance from the mean of the rows of the same kind (``means``) is kept: regression to the mean.
    """
    measured = _benchmarks(model)
    if measured is None:
        return np.full(len(TASKS), _guess(model)), rules.guess_strength
    mean = means.get(_kind(model), measured)
    strength = rules.prior_strength if _OVERALL in _scores(model) else rules.guess_strength
    return mean + rules.benchmark_trust * (measured - mean), strength


def _guess(model: Model) -> float:
    if model.size.parameters:
        return float(np.clip(0.3 + 0.11 * np.log10(model.size.parameters / 1e8), 0.2, 0.75))
    return 0.5 if model.local else 0.7


def mean_benchmarks(models: Iterable[Model]) -> dict[Capability, Floats]:
    """The mean benchmark per task, shape (tasks,), over the models of each kind that have benchmarks."""
    measured: dict[Capability, list[Floats]] = {}
    for model in models:
        scores = _benchmarks(model)
        if scores is not None:
            measured.setdefault(_kind(model), []).append(scores)
    return {kind: np.mean(scores, axis=0) for kind, scores in measured.items()}


def _benchmarks(model: Model) -> Floats | None:
    """Benchmark per task, shape (tasks,), else the overall one or a guess; ``None`` without any benchmark."""
    scores = _scores(model)
    if not scores:
        return None
    default = scores.get(_OVERALL, _guess(model))
    return np.array([scores.get(task.value, default) for task in TASKS], dtype=np.float64)


def _scores(model: Model) -> dict[str, float]:
    """The benchmarks in [0, 1]; others, such as percentages, are ignored."""
    return {name: score for name, score in model.benchmarks.items() if 0 <= score <= 1}


def _kind(model: Model) -> Capability:
    """A model's main capability: benchmarks of chat and of embedding models have no common mean."""
    return next((kind for kind in Capability if kind in model.capabilities), Capability.CHAT)
