"""What is believed of a model before anything was observed: by its benchmarks, else by its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from catalog.index import Floats
from catalog.model import Capability, Model
from routing.beliefs.posterior import TASKS
from routing.settings import Learning

_OVERALL = "overall"


def prior_of(model: Model, usual: Mapping[Capability, Floats], rules: Learning) -> tuple[Floats, float]:
    """Mean per task, shape (tasks,), and strength in virtual observations.

    Public benchmarks where the row has them; else a guess from the size that is worth less. Benchmarks of some
    tasks say nothing of the others, and without an ``overall`` one all of it is worth as little as a guess. A
    benchmark is noisy, so the best of many is likely flattered and the worst wronged: what is believed lies nearer
    to the ``usual`` one of the catalogue's rows of the same kind (``benchmark_trust``; regression to the mean).
    """
    measured = _benchmarks(model)
    if measured is None:
        return np.full(len(TASKS), _guess(model)), rules.guess_strength
    around = usual.get(_kind(model), measured)
    strength = rules.prior_strength if _OVERALL in _scores(model) else rules.guess_strength
    return around + rules.benchmark_trust * (measured - around), strength


def _guess(model: Model) -> float:
    if model.size.parameters:
        return float(np.clip(0.3 + 0.11 * np.log10(model.size.parameters / 1e8), 0.2, 0.75))
    return 0.5 if model.local else 0.7


def usual_benchmarks(models: Iterable[Model]) -> dict[Capability, Floats]:
    """The mean benchmark per task, shape (tasks,), of the measured models of each kind."""
    measured: dict[Capability, list[Floats]] = {}
    for model in models:
        scores = _benchmarks(model)
        if scores is not None:
            measured.setdefault(_kind(model), []).append(scores)
    return {kind: np.mean(scores, axis=0) for kind, scores in measured.items()}


def _benchmarks(model: Model) -> Floats | None:
    """Benchmark per task, shape (tasks,), where one has none the overall one or a guess; ``None`` without any."""
    scores = _scores(model)
    if not scores:
        return None
    otherwise = scores.get(_OVERALL, _guess(model))
    return np.array([scores.get(task.value, otherwise) for task in TASKS], dtype=np.float64)


def _scores(model: Model) -> dict[str, float]:
    """The benchmarks that are shares; a percentage is none."""
    return {name: score for name, score in model.benchmarks.items() if 0 <= score <= 1}


def _kind(model: Model) -> Capability:
    """The first endpoint a model serves: benchmarks of chat and of embedding models have no common mean."""
    return next((kind for kind in Capability if kind in model.capabilities), Capability.CHAT)
