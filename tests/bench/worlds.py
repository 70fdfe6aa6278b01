"""The simulated worlds: what the models can do, what requests come, and what an outcome says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from catalog.index import Floats, Ints
from routing.facts import Complexity, Task

SIMULATED = (Task.CHAT, Task.CODE, Task.REASONING, Task.SUMMARISE, Task.CLASSIFY, Task.EXTRACT)
COSTS = (0.0, 0.0, 0.05, 0.1, 0.3, 0.6, 1.0, 2.0)
QUALITY, LATENCY, COST = 0.45, 0.20, 0.15
"""The weights of the utility that every strategy is judged by."""


@dataclass(frozen=True)
class SimWorld:
    """One seed's world. ``quality`` has shape (2, models, tasks, complexities): before and after the change.

    ``latency`` and ``cost`` are scaled to their maximum, ``prior`` is the benchmark of each model. Requests
    have shape (n,): ``task``, ``complexity``, ``coin`` (the draw that decides an outcome) and ``delay``
    (requests until it is known; -1: never). A model unused for more than ``idle_limit`` requests takes
    ``cold_latency`` longer.
    """

    quality: Floats
    latency: Floats
    cost: Floats
    prior: Floats
    task: Ints
    complexity: Ints
    coin: Floats
    delay: Ints
    changes_at: int
    cold_latency: float = 0.0
    idle_limit: int = 0

    @property
    def models(self) -> int:
        return int(self.quality.shape[1])

    @property
    def requests(self) -> int:
        return len(self.task)

    def quality_at(self, step: int) -> Floats:
        """True quality of every model for the request of this step, shape (models,)."""
        after = int(self.changes_at >= 0 and step >= self.changes_at)
        found: Floats = self.quality[after, :, self.task[step], self.complexity[step]]
        return found

    def utility_at(self, step: int) -> Floats:
        """Expected utility of every model for the request of this step, shape (models,)."""
        return QUALITY * self.quality_at(step) - LATENCY * self.latency - COST * self.cost


def plain_world(seed: int, *, change: bool, requests: int = 2000) -> SimWorld:
    """Eight models, six tasks drawn evenly; with ``change`` the best model falls to 0.4 of itself half-way."""
    rng = np.random.default_rng(seed)
    models, tasks = 8, len(SIMULATED)
    level = rng.uniform(0.45, 0.8, models)
    quality = np.clip(level[:, None] + rng.normal(0, 0.15, (models, tasks)), 0.05, 0.97)
    latency = rng.lognormal(0, 0.7, models)
    latency /= latency.max()
    cost = rng.permutation(np.array(COSTS)) / max(COSTS)
    prior = np.clip(quality.mean(axis=1) + rng.normal(0, 0.1, models), 0.02, 0.98)
    after = quality.copy()
    utility = QUALITY * quality.mean(axis=1) - LATENCY * latency - COST * cost
    after[int(np.argmax(utility))] *= 0.4
    return SimWorld(
        quality=np.stack([quality, after])[..., None],
        latency=latency,
        cost=cost,
        prior=prior,
        task=rng.integers(0, tasks, requests),
        complexity=np.zeros(requests, dtype=np.int64),
        coin=rng.random(requests),
        delay=np.zeros(requests, dtype=np.int64),
        changes_at=requests // 2 if change else -1,
    )


def hard_world(seed: int, *, requests: int = 4000) -> SimWorld:
    """Fifty models; tasks as frequent as Zipf's law; quality that falls with complexity, more for some models;
    outcomes that come 0 to 40 requests late, and 40% that never come; cold loads; the best model falls half-way.
    """
    rng = np.random.default_rng(10_000 + seed)
    models, tasks, levels = 50, len(SIMULATED), len(Complexity)
    level = rng.uniform(0.35, 0.8, models)
    by_task = level[:, None] + rng.normal(0, 0.15, (models, tasks))
    slope = rng.uniform(0.0, 0.12, models)
    quality = np.clip(by_task[:, :, None] - slope[:, None, None] * np.arange(levels), 0.05, 0.97)
    latency = rng.lognormal(0, 0.7, models)
    latency /= latency.max()
    cost = rng.choice(np.array(COSTS), models) / max(COSTS)
    prior = np.clip(quality.mean(axis=(1, 2)) + rng.normal(0, 0.1, models), 0.02, 0.98)
    after = quality.copy()
    utility = QUALITY * quality.mean(axis=(1, 2)) - LATENCY * latency - COST * cost
    after[int(np.argmax(utility))] *= 0.4
    frequency = 1 / np.arange(1, tasks + 1)
    delay = rng.integers(0, 41, requests)
    delay[rng.random(requests) < 0.4] = -1
    return SimWorld(
        quality=np.stack([quality, after]),
        latency=latency,
        cost=cost,
        prior=prior,
        task=rng.choice(tasks, requests, p=frequency / frequency.sum()),
        complexity=rng.choice(levels, requests, p=[0.5, 0.3, 0.15, 0.05]),
        coin=rng.random(requests),
        delay=delay,
        changes_at=requests // 2,
        cold_latency=0.5,
        idle_limit=200,
    )
