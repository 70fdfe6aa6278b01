"""The strategies that the simulation compares. Ours is the router itself; the others are the textbook's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from backends.workers.pool import PoolSnapshot, WorkerState, WorkerView
from catalog.index import Bools, Floats, Index
from catalog.model import Capability, Model, PathSource, Performance, Price, UpstreamSource
from routing.beliefs.estimator import Estimator
from routing.choosing.policy import plan
from routing.choosing.world import World
from routing.facts import Complexity, Facts, Mode
from routing.settings import Learning, RoutingSettings, Weights
from tests.bench.worlds import COST, LATENCY, QUALITY, SIMULATED, SimWorld

_TOKENS = 1000
_PRIOR_STRENGTH = 10.0
_COMPLEXITIES = tuple(Complexity)


class Player(Protocol):
    """Chooses a model for each request and is told, perhaps later, whether the answer was good.

    ``cold``, shape (models,), says which would have to be loaded first; the textbook's strategies do not look.
    """

    def choose(self, step: int, cold: Bools) -> int: ...

    def learn(self, step: int, model: int, good: bool) -> None: ...


class Uniform:
    """Any model, evenly."""

    def __init__(self, world: SimWorld, rng: np.random.Generator) -> None:
        self._picks = rng.integers(0, world.models, world.requests)

    def choose(self, step: int, cold: Bools) -> int:
        return int(self._picks[step])

    def learn(self, step: int, model: int, good: bool) -> None:
        """It does not."""


class BestSingle:
    """The one model that is best on the average of all requests before the change, known beforehand."""

    def __init__(self, world: SimWorld, rng: np.random.Generator) -> None:
        del rng
        until = world.changes_at if world.changes_at >= 0 else world.requests
        self._model = int(np.argmax(sum(world.utility_at(step) for step in range(until))))

    def choose(self, step: int, cold: Bools) -> int:
        return self._model

    def learn(self, step: int, model: int, good: bool) -> None:
        """It does not."""


class EpsilonGreedy:
    """The best mean per model and task so far; one request in ten goes anywhere."""

    def __init__(self, world: SimWorld, rng: np.random.Generator) -> None:
        self._world = world
        self._rng = rng
        self._good = np.repeat(world.prior[:, None], len(SIMULATED), axis=1) * _PRIOR_STRENGTH
        self._seen = np.full(self._good.shape, _PRIOR_STRENGTH)

    def choose(self, step: int, cold: Bools) -> int:
        if self._rng.random() < 0.1:
            return int(self._rng.integers(self._world.models))
        task = self._world.seen[step]
        return int(np.argmax(QUALITY * self._good[:, task] / self._seen[:, task] - self._world.penalty_at(step)))

    def learn(self, step: int, model: int, good: bool) -> None:
        task = self._world.seen[step]
        self._good[model, task] += good
        self._seen[model, task] += 1


class BetaSampling:
    """Plain Thompson sampling: one Beta per model, or with ``by_task`` one per model and task."""

    by_task = True

    def __init__(self, world: SimWorld, rng: np.random.Generator) -> None:
        self._world = world
        self._rng = rng
        columns = len(SIMULATED) if self.by_task else 1
        self._good = np.repeat(world.prior[:, None], columns, axis=1) * _PRIOR_STRENGTH
        self._bad = np.repeat(1 - world.prior[:, None], columns, axis=1) * _PRIOR_STRENGTH

    def _column(self, step: int) -> int:
        return int(self._world.seen[step]) if self.by_task else 0

    def choose(self, step: int, cold: Bools) -> int:
        column = self._column(step)
        drawn = self._rng.beta(self._good[:, column], self._bad[:, column])
        return int(np.argmax(QUALITY * drawn - self._world.penalty_at(step)))

    def learn(self, step: int, model: int, good: bool) -> None:
        column = self._column(step)
        self._good[model, column] += good
        self._bad[model, column] += not good


class OneBetaPerModel(BetaSampling):
    """The same without tasks."""

    by_task = False


class DiscountedSampling(BetaSampling):
    """Thompson sampling by model and task that forgets: discounted TS (Raj and Kalyani, 2017), priors kept.

    The discount was tuned on other seeds, in the steady world and in the one that changes.
    """

    discount = 0.9995

    def __init__(self, world: SimWorld, rng: np.random.Generator) -> None:
        super().__init__(world, rng)
        self._prior_good, self._prior_bad = self._good.copy(), self._bad.copy()

    def learn(self, step: int, model: int, good: bool) -> None:
        column = self._column(step)
        for sums, prior in ((self._good, self._prior_good), (self._bad, self._prior_bad)):
            sums[:, column] = prior[:, column] + (sums[:, column] - prior[:, column]) * self.discount
        super().learn(step, model, good)


class LinearUcb:
    """LinUCB with a model of its own per arm (Li et al., 2010): the features are the task and a constant.

    It learns the difference to the prior. ``width`` and ``ridge`` were tuned as :class:`DiscountedSampling`.
    """

    width = 0.8
    ridge = 10.0

    def __init__(self, world: SimWorld, rng: np.random.Generator) -> None:
        del rng
        self._world = world
        size = len(SIMULATED) + 1
        self._inverse = np.tile(np.eye(size) / self.ridge, (world.models, 1, 1))
        self._sums = np.zeros((world.models, size))

    def _features(self, step: int) -> Floats:
        features = np.zeros(len(SIMULATED) + 1)
        features[self._world.seen[step]] = features[-1] = 1.0
        return features

    def choose(self, step: int, cold: Bools) -> int:
        features = self._features(step)
        spread = self._inverse @ features
        mean = self._world.prior + (self._sums * spread).sum(axis=1)
        bound = mean + self.width * np.sqrt(spread @ features)
        return int(np.argmax(QUALITY * bound - self._world.penalty_at(step)))

    def learn(self, step: int, model: int, good: bool) -> None:
        features = self._features(step)
        spread = self._inverse[model] @ features
        self._inverse[model] -= np.outer(spread, spread) / (1 + features @ spread)  # Sherman and Morrison
        self._sums[model] += features * (good - self._world.prior[model])


class MultiFactor:
    """``multi_factor`` of vLLM Semantic Router, as published: configured quality, latency and cost, each min-max
    normalised over the candidates, by their weights. It takes no feedback of quality; load is equal here.
    """

    def __init__(self, world: SimWorld, rng: np.random.Generator) -> None:
        del rng
        self._world = world

    def choose(self, step: int, cold: Bools) -> int:
        world = self._world
        cost = world.cost_at(step)
        return int(
            np.argmax(QUALITY * _scaled(world.prior) + LATENCY * _scaled(-world.latency) + COST * _scaled(-cost))
        )

    def learn(self, step: int, model: int, good: bool) -> None:
        """It does not."""


def _scaled(values: Floats) -> Floats:
    scaled: Floats = (values - values.min()) / max(1e-12, float(np.ptp(values)))
    return scaled


class Roundhouse:
    """The router: the production index, estimator and policy, on a catalogue of the world."""

    def __init__(self, world: SimWorld, rng: np.random.Generator, learning: Learning | None = None) -> None:
        self._world = world
        self._rng = rng
        self._settings = RoutingSettings(
            weights={Mode.AUTO: Weights(quality=QUALITY, latency=LATENCY, cost=COST)},
            candidates=1,
            learning=learning or Learning(),
        )
        self._estimator = Estimator(self._settings)
        self._compile(0)
        self._facts = {
            (task, level): Facts(
                capability=Capability.CHAT,
                task=SIMULATED[task],
                complexity=complexity,
                prompt_tokens=_TOKENS,
                output_tokens=0,
            )
            for task in range(len(SIMULATED))
            for level, complexity in enumerate(_COMPLEXITIES)
        }

    def _compile(self, step: int) -> None:
        """Take the catalogue with the prices of this step."""
        rows = [self._row(self._world, model, step) for model in range(self._world.models)]
        self._index = Index(rows, version=1 + step)
        self._estimator.align(self._index)
        self._now = World(index=self._index, estimator=self._estimator, now=0.0)

    def _row(self, world: SimWorld, model: int, step: int) -> Model:
        """A catalogue row that takes the world's seconds and dollars in the router's own scales."""
        loads, cost = world.cold_latency > 0, float(world.cost_at(step)[model])
        return Model(
            id=f"model-{model}",
            capabilities=frozenset({Capability.CHAT}),
            source=PathSource(path="any") if loads else UpstreamSource(endpoint=f"endpoint-{model}", model="any"),
            price=Price(input=cost * self._settings.cost_scale * 1e6 / _TOKENS, output=0),
            performance=Performance(
                latency_p50_ms=float(world.latency[model]) * self._settings.latency_scale * 1000,
                tokens_per_second=1e9,
                prefill_tokens_per_second=1e9,
                load_seconds=world.cold_latency * self._settings.latency_scale,
            ),
            benchmarks={"overall": float(world.prior[model])},
        )

    def choose(self, step: int, cold: Bools) -> int:
        if step == self._world.prices_change_at:
            self._compile(step)
        facts = self._facts[int(self._world.seen[step]), int(self._world.complexity[step])]
        now = self._now if not self._world.cold_latency else self._with_warm(cold)
        made = plan(facts, now, self._settings, self._rng)
        return self._index.rows[made.candidates[0].model.id]

    def _with_warm(self, cold: Bools) -> World:
        warm = tuple(
            WorkerView(model=f"model-{model}", engine="any", device="cpu", state=WorkerState.READY)
            for model in np.flatnonzero(~cold)
        )
        return World(index=self._index, estimator=self._estimator, now=0.0, pool=PoolSnapshot(workers=warm))

    def learn(self, step: int, model: int, good: bool) -> None:
        facts = self._facts[int(self._world.seen[step]), int(self._world.complexity[step])]
        self._estimator.observe_quality(f"model-{model}", facts.task, facts.complexity, float(good))


class Told(Roundhouse):
    """The router with an oracle: at the moment of the change it is told which model fell, and by how much.

    What it is told arrives as another gateway's belief would. How soon it finds the new best models is how soon
    anybody could who learns as the router does: the measure of its return after a change.
    """

    def choose(self, step: int, cold: Bools) -> int:
        if step == self._world.changes_at:
            self._tell()
        return super().choose(step, cold)

    def _tell(self) -> None:
        before, after = self._world.quality
        factor = (after.sum(axis=(1, 2)) / before.sum(axis=(1, 2))).tolist()
        documents = self._estimator.export()
        # A model of which nothing was ever observed has no document, and nothing to unlearn.
        parts = {f"model-{model}": part for model, part in enumerate(factor) if part < 1}
        fallen = {name: documents[name] for name in parts.keys() & documents.keys()}
        for name, document in fallen.items():
            part, quality = parts[name], document["quality"]
            quality["prior"] = {task: score * part for task, score in quality["prior"].items()}
            for cell in quality["cells"]:
                cell["scores"] *= part
            quality["changes"] += 1
            document["writer"] = "oracle"
        self._estimator.adopt(fallen)


BASELINES = ("LinUCB on the task", "discounted Thompson by task", "multi-factor")
"""The strategies of which the best sets the bounds of the further worlds."""

STRATEGIES: dict[str, Callable[[SimWorld, np.random.Generator], Player]] = {
    "random": Uniform,
    "best single model": BestSingle,
    "epsilon-greedy": EpsilonGreedy,
    "one Beta per model": OneBetaPerModel,
    "one Beta per model and task": BetaSampling,
    "LinUCB on the task": LinearUcb,
    "discounted Thompson by task": DiscountedSampling,
    "multi-factor": MultiFactor,
    "Roundhouse": Roundhouse,
    "Roundhouse, told": Told,
}
