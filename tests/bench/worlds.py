"""The simulated worlds: what the models can do, what requests come, and what an outcome says."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

    ``latency`` and ``cost`` are scaled to their maximum, ``prior`` is the benchmark of each model. ``later_cost``
    holds from the request ``prices_change_at`` on; strategies know the prices. Requests have shape (n,): ``task``,
    ``seen`` (the task that strategies are told, which may be wrong), ``complexity``, ``coin`` (the draw that
    decides an outcome) and ``delay`` (requests until it is known; -1: never). A model unused for more than
    ``idle_limit`` requests takes ``cold_latency`` longer.
    """

    quality: Floats
    latency: Floats
    cost: Floats
    prior: Floats
    task: Ints
    seen: Ints
    complexity: Ints
    coin: Floats
    delay: Ints
    changes_at: int
    cold_latency: float = 0.0
    idle_limit: int = 0
    later_cost: Floats | None = None
    prices_change_at: int = -1

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
        return QUALITY * self.quality_at(step) - self.penalty_at(step)

    def penalty_at(self, step: int) -> Floats:
        """The known part of the utility, of seconds and dollars, shape (models,)."""
        return LATENCY * self.latency + COST * self.cost_at(step)

    def cost_at(self, step: int) -> Floats:
        """The price of every model at this step, shape (models,)."""
        changed = self.later_cost is not None and step >= self.prices_change_at
        return self.later_cost if changed and self.later_cost is not None else self.cost


def plain_world(seed: int, *, change: bool, requests: int = 2000, models: int = 8) -> SimWorld:
    """Six tasks drawn evenly; with ``change`` the best model falls to 0.4 of itself half-way."""
    rng = np.random.default_rng(seed)
    tasks = len(SIMULATED)
    level = rng.uniform(0.45, 0.8, models)
    quality = np.clip(level[:, None] + rng.normal(0, 0.15, (models, tasks)), 0.05, 0.97)
    latency = rng.lognormal(0, 0.7, models)
    latency /= latency.max()
    costs = np.array(COSTS)
    cost = (rng.permutation(costs) if models == len(COSTS) else rng.choice(costs, models)) / max(COSTS)
    prior = np.clip(quality.mean(axis=1) + rng.normal(0, 0.1, models), 0.02, 0.98)
    after = quality.copy()
    utility = QUALITY * quality.mean(axis=1) - LATENCY * latency - COST * cost
    after[int(np.argmax(utility))] *= 0.4
    task = rng.integers(0, tasks, requests)
    return SimWorld(
        quality=np.stack([quality, after])[..., None],
        latency=latency,
        cost=cost,
        prior=prior,
        task=task,
        seen=task,
        complexity=np.zeros(requests, dtype=np.int64),
        coin=rng.random(requests),
        delay=np.zeros(requests, dtype=np.int64),
        changes_at=requests // 2 if change else -1,
    )


def mislabelled_world(seed: int) -> SimWorld:
    """The steady world, where the strategies are told another task for 15% of the requests."""
    world, rng = plain_world(seed, change=False), np.random.default_rng(20_000 + seed)
    other = (world.task + rng.integers(1, len(SIMULATED), world.requests)) % len(SIMULATED)
    return replace(world, seen=np.where(rng.random(world.requests) < 0.15, other, world.task))


def misjudged_world(seed: int) -> SimWorld:
    """The steady world, where the best model's benchmark is 0.3 too low and the worst model's 0.3 too high."""
    world = plain_world(seed, change=False)
    utility = QUALITY * world.quality[0].mean(axis=(1, 2)) - LATENCY * world.latency - COST * world.cost
    prior = world.prior.copy()
    prior[int(np.argmax(utility))] -= 0.3
    prior[int(np.argmin(utility))] += 0.3
    return replace(world, prior=np.clip(prior, 0.02, 0.98))


def crowded_world(seed: int) -> SimWorld:
    """The steady world with fifty models."""
    return plain_world(seed, change=False, models=50)


def belated_world(seed: int) -> SimWorld:
    """The steady world, where outcomes come 0 to 40 requests late, and 40% never come."""
    world, rng = plain_world(seed, change=False), np.random.default_rng(30_000 + seed)
    delay = rng.integers(0, 41, world.requests)
    return replace(world, delay=np.where(rng.random(world.requests) < 0.4, -1, delay))


def repriced_world(seed: int) -> SimWorld:
    """The steady world, where half-way every model gets the price of another."""
    world, rng = plain_world(seed, change=False), np.random.default_rng(40_000 + seed)
    return replace(world, later_cost=rng.permutation(world.cost), prices_change_at=world.requests // 2)


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
        task=(task := rng.choice(tasks, requests, p=frequency / frequency.sum())),
        seen=task,
        complexity=rng.choice(levels, requests, p=[0.5, 0.3, 0.15, 0.05]),
        coin=rng.random(requests),
        delay=delay,
        changes_at=requests // 2,
        cold_latency=0.5,
        idle_limit=200,
    )
