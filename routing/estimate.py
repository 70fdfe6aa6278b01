"""What to expect of each model for given facts: quality, seconds and dollars, for all rows at once.

The estimator holds what was learned, by model id, and keeps dense arrays beside it whose row ``i`` is row
``i`` of the :class:`~routing.index.Index` it is aligned with. An outcome changes one row; a decision reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backends.workers.pool import PoolSnapshot, WorkerState
from catalog.model import Capability, Model
from routing.facts import Complexity, Facts, Task
from routing.index import UNITS, Floats, Index
from routing.posterior import COMPLEXITIES, COMPLEXITY_AT, TASK_AT, TASKS, Evidence, QualityBook
from routing.settings import RoutingSettings
from routing.speed import SIZES, Pace, SpeedBook, size_class

RECOVERY_SECONDS = 600.0
"""After so long without a new failure, a model's failures weigh 1/e."""

_TYPICAL_OUTPUT = {Task.CLASSIFY: 16.0, Task.EXTRACT: 128.0, Task.TOOL_USE: 128.0, Task.SUMMARISE: 256.0}
_OUTPUT_DEFAULT = 300.0
_UNIT_SECONDS = {
    Capability.TRANSCRIBE: 10.0,
    Capability.TRANSLATE: 10.0,
    Capability.SPEAK: 0.01,
    Capability.IMAGE: 10.0,
    Capability.VIDEO: 60.0,
}
_DECODES = frozenset({Capability.CHAT, Capability.COMPLETION})


class Estimator:
    """Learned expectations. Not thread-safe: one event loop reads and writes it."""

    def __init__(self, settings: RoutingSettings | None = None) -> None:
        chosen = settings or RoutingSettings()
        self._learning = chosen.learning
        self._quality = QualityBook(chosen.learning, chosen.signals)
        self._speed = SpeedBook(chosen.learning)
        self._evidence: dict[str, Evidence] = {}
        self._paces: dict[str, Pace] = {}
        self._output = {task: _TYPICAL_OUTPUT.get(task, _OUTPUT_DEFAULT) for task in TASKS}
        self._changed: set[str] = set()
        self.align(Index(()))

    # ---- alignment with the catalogue

    def align(self, index: Index) -> None:
        """Follow a new index. What was learned of models that are gone is kept, should they come back."""
        self.index = index
        count = len(index)
        priors = [self.prior(model) for model in index.models]
        means = np.array([prior for prior, _ in priors]).reshape(count, len(TASKS))
        strengths = np.array([strength for _, strength in priors])
        self._mean: Floats = np.repeat(means.T[:, None, :], len(COMPLEXITIES), axis=1)
        self._strength: Floats = np.empty_like(self._mean)
        for strength in set(strengths.tolist()):
            _, cold = self._quality.posterior(Evidence.fresh(np.full(len(TASKS), 0.5), strength))
            self._strength[:, :, strengths == strength] = cold[:, :, None]
        self._observed: Floats = np.zeros((len(TASKS), count))
        self._first: Floats = np.ones((SIZES, count))
        self._fixed_seconds: Floats = np.tile(index.base_seconds, (SIZES, 1))
        self._prompt_seconds: Floats = np.tile(1 / index.prefill, (SIZES, 1))
        self._token_seconds: Floats = np.tile(1 / index.decode, (SIZES, 1))
        self._load: Floats = index.load_seconds.copy()
        self._unreliable: Floats = np.zeros(count)
        self._failed_at: Floats = np.zeros(count)
        for model_id in self._evidence.keys() & index.rows.keys():
            self._refresh_quality(model_id)
        for model_id in self._paces.keys() & index.rows.keys():
            self._refresh_pace(model_id)

    def prior(self, model: Model) -> tuple[Floats, float]:
        """Mean per task, shape (tasks,), and strength, of a model before any observation.

        Public benchmarks where the row has them; else a guess from the size that is worth less.
        """
        scores = model.benchmarks
        known = [score for score in scores.values() if 0 <= score <= 1]
        if known:
            overall = scores.get("overall", sum(known) / len(known))
            means = np.array([scores.get(task.value, overall) for task in TASKS], dtype=np.float64)
            return means, self._learning.prior_strength
        if model.size.parameters:
            guess = float(np.clip(0.3 + 0.11 * np.log10(model.size.parameters / 1e8), 0.2, 0.75))
        else:
            guess = 0.5 if model.local else 0.7
        return np.full(len(TASKS), guess), self._learning.guess_strength

    # ---- reading

    def quality(self, task: Task, complexity: Complexity) -> tuple[Floats, Floats]:
        """Posterior mean in [0, 1] and strength in virtual observations, each of shape (n,). Do not write."""
        at = TASK_AT[task], COMPLEXITY_AT[complexity]
        mean: Floats = self._mean[at]
        strength: Floats = self._strength[at]
        return mean, strength

    def observations(self, task: Task) -> Floats:
        """How many explicit observations of a task each model has, discounted, shape (n,). Do not write."""
        observed: Floats = self._observed[TASK_AT[task]]
        return observed

    def reliability(self, wall: float | None) -> Floats | None:
        """The share of attempts expected to be answered, shape (n,); ``None`` while no failure is known."""
        if not self._unreliable.any():
            return None
        if wall is None:
            return 1 - self._unreliable
        faded: Floats = 1 - self._unreliable * np.exp((self._failed_at - wall).clip(max=0) / RECOVERY_SECONDS)
        return faded

    def output_tokens(self, facts: Facts) -> float:
        """Tokens the answer is expected to have: what this task usually takes, within the caller's bound."""
        if facts.capability not in _DECODES or facts.tokens_only:
            return 0.0
        typical = self._output[facts.task]
        return typical if facts.output_tokens is None else min(typical, float(facts.output_tokens))

    def latency(self, facts: Facts, pool: PoolSnapshot, now: float) -> Floats:
        """Expected seconds to the whole answer, shape (n,): load, queue, prefill, decode."""
        seconds = self._service(facts)
        cold = self._load.copy()
        for worker in pool.workers:
            row = self.index.rows.get(worker.model)
            if row is None:
                continue
            if worker.state is WorkerState.READY:
                waiting = max(0, worker.busy + worker.queued + 1 - worker.slots) / max(1, worker.slots)
                cold[row] = waiting * self._busy(worker.model, float(seconds[row])) if waiting else 0.0
            elif worker.state is WorkerState.STARTING and worker.started_at is not None:
                cold[row] = max(0.2, float(self._load[row]) - (now - worker.started_at))
        return seconds + cold

    def cost(self, facts: Facts, *, output: float | None = None) -> Floats:
        """Expected dollars, shape (n,); NaN where a price that matters is unknown."""
        prices = self.index.prices
        tokens = self.output_tokens(facts) if output is None else output
        unit = UNITS.get(facts.capability)
        if unit is not None and facts.capability is not Capability.RERANK:
            dollars: Floats = prices[unit.field] * (facts.units / unit.per)
            return dollars
        dollars = prices["input"] * (facts.prompt_tokens * 1e-6)
        if tokens:
            dollars = dollars + prices["output"] * (tokens * 1e-6)
        if unit is not None:
            per_search = prices[unit.field] * (facts.units / unit.per)
            dollars = np.where(np.isnan(per_search), dollars, per_search)
        return dollars

    def service_seconds(self, facts: Facts, model_id: str) -> float | None:
        """Expected seconds of one model's answer once it is loaded and free."""
        row = self.index.rows.get(model_id)
        return None if row is None else float(self._service(facts)[row])

    def _service(self, facts: Facts) -> Floats:
        size = size_class(facts.prompt_tokens)
        seconds: Floats = self._fixed_seconds[size] + facts.prompt_tokens * self._prompt_seconds[size]
        tokens = self.output_tokens(facts)
        if tokens:
            seconds += tokens * self._token_seconds[size]
        elif unit := _UNIT_SECONDS.get(facts.capability):
            seconds += facts.units * unit * self._first[size]
        return seconds

    def _busy(self, model_id: str, fallback: float) -> float:
        pace = self._paces.get(model_id)
        return pace.busy if pace is not None and pace.busy > 0 else fallback

    # ---- learning

    def observe_quality(
        self, model_id: str, task: Task, complexity: Complexity, score: float, confidence: float = 1.0
    ) -> bool:
        """Add an observation of quality: ``score`` in [0, 1], worth ``confidence`` of a whole one.

        True when it convinced the change detector that the model is no longer what it was. Raises
        ValueError for a score or confidence outside [0, 1].
        """
        _check_share(score, confidence)
        evidence = self._evidence_of(model_id)
        changed = self._quality.observe(evidence, TASK_AT[task], COMPLEXITY_AT[complexity], score, confidence)
        self._refresh_quality(model_id)
        return changed

    def hint_quality(
        self, model_id: str, task: Task, complexity: Complexity, score: float, confidence: float
    ) -> None:
        """Add an implicit observation; all of them together weigh little (``implicit_memory``)."""
        _check_share(score, confidence)
        self._quality.hint(
            self._evidence_of(model_id), TASK_AT[task], COMPLEXITY_AT[complexity], score, confidence
        )
        self._refresh_quality(model_id)

    def seed(self, model_id: str, priors: Mapping[Task, float]) -> bool:
        """Set benchmark priors, by task, in [0, 1]. False when the model was observed: observation stands."""
        for score in priors.values():
            _check_share(score, 1.0)
        known = self._evidence.get(model_id)
        if not priors or (known is not None and known.seen > 0):
            return False
        overall = sum(priors.values()) / len(priors)
        means = np.array([priors.get(task, overall) for task in TASKS])
        self._evidence[model_id] = Evidence.fresh(means, self._learning.prior_strength)
        self._refresh_quality(model_id)
        return True

    def observe_first(self, model_id: str, facts: Facts, seconds: float) -> None:
        """The first token (or, where nothing is decoded, the answer) came after so long, queue not counted."""
        row = self.index.rows.get(model_id)
        if row is None:
            return
        size = size_class(facts.prompt_tokens)
        expected = self.index.base_seconds[row] + facts.prompt_tokens / self.index.prefill[row]
        if facts.capability not in _DECODES:
            expected += facts.units * _UNIT_SECONDS.get(facts.capability, 0.0)
        self._speed.first(self._pace_of(model_id), size, seconds / max(float(expected), 1e-6))
        self._refresh_pace(model_id)

    def observe_decode(self, model_id: str, facts: Facts, seconds: float, tokens: int) -> None:
        """So many tokens came in so many seconds after the first one."""
        row = self.index.rows.get(model_id)
        if row is None or tokens < 1:
            return
        ratio = seconds / tokens * float(self.index.decode[row])
        self._speed.token(self._pace_of(model_id), size_class(facts.prompt_tokens), ratio)
        self._refresh_pace(model_id)

    def observe_load(self, model_id: str, seconds: float) -> None:
        """The model took so long to load."""
        pace = self._pace_of(model_id)
        pace.load = seconds if pace.load == 0.0 else 0.5 * (pace.load + seconds)
        self._refresh_pace(model_id)

    def observe_attempt(self, model_id: str, *, failed: bool, at: float, busy: float | None = None) -> None:
        """An attempt ended at wall-clock time ``at``; ``busy`` is the seconds that it held a slot."""
        pace = self._pace_of(model_id)
        self._speed.attempted(pace, failed=failed, at=at)
        if busy is not None:
            self._speed.occupied(pace, busy)
        self._refresh_pace(model_id)

    def observe_output(self, task: Task, tokens: int) -> None:
        """An answer that nobody cut had so many tokens."""
        self._output[task] += 0.05 * (min(tokens, 100_000) - self._output[task])

    def _evidence_of(self, model_id: str) -> Evidence:
        evidence = self._evidence.get(model_id)
        if evidence is None:
            row = self.index.rows.get(model_id)
            if row is None:
                prior, strength = np.full(len(TASKS), 0.5), self._learning.guess_strength
            else:
                prior, strength = self.prior(self.index.models[row])
            evidence = self._evidence[model_id] = Evidence.fresh(prior, strength)
        return evidence

    def _pace_of(self, model_id: str) -> Pace:
        return self._paces.setdefault(model_id, Pace())

    def _refresh_quality(self, model_id: str) -> None:
        self._changed.add(model_id)
        row = self.index.rows.get(model_id)
        if row is not None:
            evidence = self._evidence[model_id]
            self._mean[:, :, row], self._strength[:, :, row] = self._quality.posterior(evidence)
            self._observed[:, row] = evidence.counts.sum(axis=1)

    def _refresh_pace(self, model_id: str) -> None:
        self._changed.add(model_id)
        row = self.index.rows.get(model_id)
        if row is None:
            return
        pace = self._paces[model_id]
        first, token = self._speed.factors(pace)
        self._first[:, row] = first
        self._fixed_seconds[:, row] = self.index.base_seconds[row] * first
        self._prompt_seconds[:, row] = first / self.index.prefill[row]
        self._token_seconds[:, row] = token / self.index.decode[row]
        if pace.load > 0:
            self._load[row] = pace.load
        self._unreliable[row] = self._speed.unreliability(pace)
        self._failed_at[row] = pace.failed_at


def _check_share(score: float, confidence: float) -> None:
    if not (0 <= score <= 1 and 0 <= confidence <= 1):
        raise ValueError(f"A score and its confidence lie in [0, 1], not {score!r} and {confidence!r}.")
