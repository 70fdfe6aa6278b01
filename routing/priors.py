"""What is believed of a model before anything was observed: by its benchmarks, else by its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from catalog.model import Capability, Model
from routing.index import Floats
from routing.posterior import TASKS
from routing.settings import Learning


def prior_of(model: Model, usual: Mapping[Capability, Floats], rules: Learning) -> tuple[Floats, float]:
    """Mean per task, shape (tasks,), and strength in virtual observations.

    Public benchmarks where the row has them; else a guess from the size that is worth less. A benchmark is
    noisy, so the best of many is likely flattered and the worst wronged: what is believed lies nearer to the
    ``usual`` one of the catalogue's rows of the same kind (``benchmark_trust``; regression to the mean).
    """
    measured = _benchmarks(model)
    if measured is not None:
        around = usual.get(_kind(model), measured)
        return around + rules.benchmark_trust * (measured - around), rules.prior_strength
    if model.size.parameters:
        guess = float(np.clip(0.3 + 0.11 * np.log10(model.size.parameters / 1e8), 0.2, 0.75))
    else:
        guess = 0.5 if model.local else 0.7
    return np.full(len(TASKS), guess), rules.guess_strength


def usual_benchmarks(models: Iterable[Model]) -> dict[Capability, Floats]:
    """The mean benchmark per task, shape (tasks,), of the measured models of each kind."""
    measured: dict[Capability, list[Floats]] = {}
    for model in models:
        scores = _benchmarks(model)
        if scores is not None:
            measured.setdefault(_kind(model), []).append(scores)
    return {kind: np.mean(scores, axis=0) for kind, scores in measured.items()}


def _benchmarks(model: Model) -> Floats | None:
    """Benchmark per task, shape (tasks,), the overall one where a task has none; ``None`` without any."""
    scores = {name: score for name, score in model.benchmarks.items() if 0 <= score <= 1}
    if not scores:
        return None
    overall = scores.get("overall", sum(scores.values()) / len(scores))
    return np.array([scores.get(task.value, overall) for task in TASKS], dtype=np.float64)


def _kind(model: Model) -> Capability:
    """The first endpoint a model serves: benchmarks of chat and of embedding models have no common mean."""
    return next((kind for kind in Capability if kind in model.capabilities), Capability.CHAT)
