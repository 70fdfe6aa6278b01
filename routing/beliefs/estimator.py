"""Expected quality, seconds and dollars of each model for given facts, for all rows at once.

The estimator keeps what was learned by model id (:class:`LearnedState`) and dense arrays whose row ``i`` is row
``i`` of the :class:`~catalog.index.Index` it is aligned with (:class:`Columns`). An observation marks one model as
stale; its row is computed again before the next decision reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from backends.workers.pool import PoolSnapshot
from catalog.index import Floats, Index
from routing.beliefs.columns import Columns
from routing.beliefs.documents import MAX_ORIGIN, ModelProfile
from routing.beliefs.expectations import (
    Expectation,
    catalogue_first_seconds,
    decodes,
    dollars,
    service_seconds,
    unit_seconds,
    wait_seconds,
)
from routing.beliefs.learned_state import LearnedState
from routing.beliefs.posterior import COMPLEXITY_AT, TASK_AT, TASKS, Evidence, QualityPosterior, clip_mean
from routing.beliefs.prior_files import PriorFiles
from routing.beliefs.priors import Prior, Source, priors_of
from routing.beliefs.speed import SpeedRatios, size_class
from routing.facts import Complexity, Facts, Task
from routing.settings import RoutingSettings

_ALL_ROWS = slice(None)
_NO_QUEUES: Mapping[str, float] = MappingProxyType({})


class Estimator:
    """Learned expectations. Not thread-safe: one event loop reads and writes it.

    Arrays that it returns are views of its columns unless said otherwise: read-only, and changed by the next
    observation. :mod:`routing.persistence` stores what was learned; ``writer`` names this process in the store.
    """

    kind = "learned"

    def __init__(self, settings: RoutingSettings | None = None, *, writer: str | None = None) -> None:
        chosen = settings or RoutingSettings()
        self._learning = chosen.learning
        self._posterior = QualityPosterior(chosen.learning, chosen.signals)
        self._ratios = SpeedRatios(chosen.learning)
        self._learned = LearnedState(self._posterior, writer)
        self.files = PriorFiles()
        self.align(Index(()))

    def align(self, index: Index) -> None:
        """Use a new index, and the present :attr:`files` of priors.

        What was learned of models that the index lacks is kept in case they return.
        """
        self.index = index
        given = self.files.by_row(index.models)
        self._priors = priors_of(index.models, index.private.tolist(), self._learning, given)
        self._columns = Columns(
            index, [(prior.mean, prior.strength) for prior in self._priors], self._posterior, self._ratios
        )
        self._learned.stale_quality = self._learned.evidence.keys() & index.rows.keys()
        self._learned.stale_speed = self._learned.paces.keys() & index.rows.keys()

    def prior(self, row: int) -> Prior:
        """The prior of a row of the index, with its origin; an imported one stands in place of the catalogue's."""
        evidence = self._learned.evidence.get(self.index.models[row].id)
        if evidence is None or not evidence.imported:
            return self._priors[row]
        return Prior(evidence.prior, evidence.strength, Source.IMPORTED, evidence.imported)

    @property
    def benchmark_strength(self) -> float:
        """Observations that a prior by the model's own benchmarks is worth."""
        return self._learning.prior_strength

    def refresh(self) -> None:
        """Compute stale rows now, off the request's path; otherwise the next decision does."""
        self._refresh_quality()
        self._refresh_speed()

    def export_profile(self) -> dict[str, ModelProfile]:
        """Learned and imported profiles by model id, for another installation to start with.

        The speed of this machine's own models is left out: another machine has another.
        """
        ours = {model.id for model in self.index.models if model.local}
        return self._learned.profile(ours)

    def import_profile(self, models: Mapping[str, ModelProfile], *, weight: float, origin: str) -> dict[str, bool]:
        """Start with what another installation learned, its observations worth ``weight`` of own ones, in [0, 1].

        Returns, by model id, whether its part was taken: that of a model observed here is not.
        """
        _check_shares(weight, weight)
        return {name: self._learned.start_with(name, part, weight, origin) for name, part in models.items()}

    def export(self) -> dict[str, Any]:
        """See :meth:`LearnedState.export`."""
        return self._learned.export()

    def adopt(self, documents: Mapping[str, Any]) -> None:
        """See :meth:`LearnedState.adopt`."""
        self._learned.adopt(documents)

    # ---- expectations for all rows

    def quality(self, task: Task, complexity: Complexity) -> tuple[Floats, Floats]:
        """Posterior mean in [0, 1] and strength in virtual observations, each of shape (n,)."""
        self._refresh_quality()
        cell = TASK_AT[task], COMPLEXITY_AT[complexity]
        mean: Floats = self._columns.mean[cell]
        strength: Floats = self._columns.strength[cell]
        return mean, strength

    def exploration_bonus(self, task: Task, complexity: Complexity) -> Floats:
        """Bonus of each quality, shape (n,); see :meth:`QualityPosterior.exploration_bonus`."""
        self._refresh_quality()
        bonus: Floats = self._columns.exploration_bonus[TASK_AT[task], COMPLEXITY_AT[complexity]]
        return bonus

    def observations(self, task: Task) -> Floats:
        """Discounted number of explicit observations of a task, shape (n,)."""
        self._refresh_quality()
        observed: Floats = self._columns.observed[TASK_AT[task]]
        return observed

    def hints(self, task: Task) -> Floats:
        """Weight of the implicit observations of a task in explicit ones, shape (n,)."""
        self._refresh_quality()
        hinted: Floats = self._columns.hinted[TASK_AT[task]]
        return hinted

    def prior_quality(self, row: int, task: Task) -> float:
        """The quality of a row of the index before any observation."""
        evidence = self._learned.evidence.get(self.index.models[row].id)
        prior = self._priors[row].mean if evidence is None else evidence.prior
        return float(prior[TASK_AT[task]])

    def reliability(self, wall: float | None) -> Floats | None:
        """See :meth:`Columns.reliability`."""
        self._refresh_speed()
        return self._columns.reliability(wall)

    def output_tokens(self, facts: Facts) -> float:
        """Expected tokens of the answer: the usual length for the task, within the caller's bound."""
        if not decodes(facts):
            return 0.0
        usual = self._learned.output[facts.task]
        return usual if facts.output_tokens is None else min(usual, float(facts.output_tokens))

    def latency(
        self, facts: Facts, pool: PoolSnapshot, now: float, queued_ahead: Mapping[str, float] = _NO_QUEUES
    ) -> Floats:
        """Expected seconds to the whole answer, a new array of shape (n,): load, queue, prefill and decode."""
        self._refresh_speed()
        seconds: Floats = service_seconds(self._columns, facts, self.output_tokens(facts), _ALL_ROWS)
        waits = self.index.load_seconds.copy()
        for worker in pool.models:
            row = self.index.rows.get(worker.model)
            if row is not None:
                busy = self._busy_seconds(worker.model, seconds.item(row))
                waits[row] = wait_seconds(worker, waits.item(row), busy, now)
        for model, calls in queued_ahead.items():
            row = self.index.rows[model]
            waits[row] += calls * self._busy_seconds(model, seconds.item(row))
        seconds += waits
        return seconds

    def cost(self, facts: Facts, *, output: float | None = None) -> Floats:
        """Expected dollars, a new array of shape (n,), NaN where a needed price is unknown.

        ``output`` replaces the expected tokens of the answer.
        """
        cost: Floats = dollars(
            self.index, facts, self.output_tokens(facts) if output is None else output, _ALL_ROWS
        )
        return cost

    # ---- expectations for one model

    def expect(
        self,
        row: int,
        facts: Facts,
        pool: PoolSnapshot,
        now: float,
        queued_ahead: Mapping[str, float] = _NO_QUEUES,
    ) -> Expectation:
        """:meth:`quality`, :meth:`latency` and :meth:`cost` of one row."""
        self.refresh()
        output = self.output_tokens(facts)
        seconds = float(service_seconds(self._columns, facts, output, row))
        wait = self.index.load_seconds.item(row)
        for worker in pool.models:
            if self.index.rows.get(worker.model) == row:
                wait = wait_seconds(worker, wait, self._busy_seconds(worker.model, seconds), now)
        if queued_ahead:
            model = self.index.models[row].id
            wait += queued_ahead.get(model, 0.0) * self._busy_seconds(model, seconds)
        cost = float(dollars(self.index, facts, output, row))
        return Expectation(
            quality=self._columns.mean.item(TASK_AT[facts.task], COMPLEXITY_AT[facts.complexity], row),
            latency=seconds + wait,
            cost=None if math.isnan(cost) else cost,
        )

    def prefill_seconds(self, row: int, facts: Facts, tokens: float) -> float:
        """Expected seconds in which one row reads so many tokens of this prompt."""
        self._refresh_speed()
        return tokens * self._columns.prompt_seconds.item(size_class(facts.prompt_tokens), row)

    def expected_quality(self, model_id: str, task: Task, complexity: Complexity) -> float:
        """Posterior mean of one model; 0.5 if neither the index nor the learned state has it."""
        cell = TASK_AT[task], COMPLEXITY_AT[complexity]
        row = self.index.rows.get(model_id)
        if row is not None:
            self._refresh_quality()
            return self._columns.mean.item(*cell, row)
        evidence = self._learned.evidence.get(model_id)
        return 0.5 if evidence is None else float(self._posterior.posterior(evidence)[0][cell])

    def first_seconds(self, model_id: str, facts: Facts) -> float | None:
        """Expected seconds to the first token of one model, loaded and idle; ``None`` if the index lacks it."""
        row = self.index.rows.get(model_id)
        if row is None:
            return None
        pace = self._learned.paces.get(model_id)
        ratio = 1.0 if pace is None else self._ratios.first_ratio(pace, size_class(facts.prompt_tokens))
        return ratio * catalogue_first_seconds(self.index, row, facts)

    def token_seconds(self, model_id: str, facts: Facts) -> float | None:
        """Expected seconds per token after the first of one model; ``None`` if the index lacks it."""
        row = self.index.rows.get(model_id)
        if row is None:
            return None
        pace = self._learned.paces.get(model_id)
        ratio = 1.0 if pace is None else self._ratios.token_ratio(pace, size_class(facts.prompt_tokens))
        return ratio / self.index.decode.item(row)

    def _busy_seconds(self, model_id: str, service: float) -> float:
        """Mean seconds that a call takes a slot; ``service`` before any was observed."""
        pace = self._learned.paces.get(model_id)
        return pace.busy if pace is not None and pace.busy > 0 else service

    # ---- observations

    def observe_quality(
        self, model_id: str, task: Task, complexity: Complexity, score: float, confidence: float = 1.0
    ) -> bool:
        """Add an observation of quality: ``score`` in [0, 1], worth ``confidence`` of a whole one.

        True when the change detector fired: the model is no longer as good, or as bad, as it was. Raises
        ValueError for a score or confidence outside [0, 1].
        """
        _check_shares(score, confidence)
        evidence = self._evidence_of(model_id)
        cell = TASK_AT[task], COMPLEXITY_AT[complexity]
        mean = self.expected_quality(model_id, task, complexity)
        changed = self._posterior.observe(evidence, *cell, score, confidence, mean)
        self._learned.journal(model_id).note(*cell, score, confidence, hint=False)
        self._learned.quality_changed(model_id)
        return changed

    def hint_quality(
        self, model_id: str, task: Task, complexity: Complexity, score: float, confidence: float
    ) -> None:
        """Add an implicit observation; ``implicit_memory`` bounds the weight of all of them."""
        _check_shares(score, confidence)
        cell = TASK_AT[task], COMPLEXITY_AT[complexity]
        self._posterior.hint(self._evidence_of(model_id), *cell, score, confidence)
        self._learned.journal(model_id).note(*cell, score, confidence, hint=True)
        self._learned.quality_changed(model_id)

    def seed(
        self,
        model_id: str,
        priors: Mapping[Task, float],
        *,
        overall: float | None = None,
        origin: str = "imported",
        observed: bool = False,
        strength: float | None = None,
    ) -> bool:
        """Set a model's prior means in [0, 1], by task, without shrinking them as benchmarks are.

        ``overall`` holds for the other tasks, which otherwise keep theirs; ``origin`` names where they come from;
        ``strength`` is what they are worth in observations, by default what benchmarks are.
        Of a model that was observed already, the prior is replaced beneath its observations with ``observed``;
        otherwise the answer is False, and nothing changes.
        """
        for score in (*priors.values(), *(() if overall is None else (overall,))):
            _check_shares(score, 1.0)
        known = self._learned.evidence.get(model_id)
        if (not priors and overall is None) or (known is not None and known.seen > 0 and not observed):
            return False
        means, certain = self._prior_below(known, self.index.rows.get(model_id))
        if overall is not None:
            means, certain = np.full(len(TASKS), overall), self._learning.prior_strength
        elif means is None:
            means = np.full(len(TASKS), sum(priors.values()) / len(priors))
        for task, score in priors.items():
            means[TASK_AT[task]] = score
        fresh = Evidence.fresh(means, strength or certain, origin[:MAX_ORIGIN])
        if observed and known is not None:
            known.prior, known.strength, known.imported = fresh.prior, fresh.strength, fresh.imported
        else:
            self._learned.evidence[model_id] = fresh
        self._learned.journal(model_id).number += 1
        self._learned.quality_changed(model_id)
        return True

    def observe_first(self, model_id: str, facts: Facts, seconds: float, *, cached: float = 0.0) -> None:
        """Add a time to the first token, or to the whole answer if it is not decoded; without queueing.

        ``cached`` is the share of the prompt that the model had in its cache and did not read again.
        """
        row = self.index.rows.get(model_id)
        if row is None:
            return
        expected = catalogue_first_seconds(self.index, row, facts, cached) + unit_seconds(facts)
        pace = self._learned.pace_of(model_id)
        self._ratios.observe_first(pace, size_class(facts.prompt_tokens), seconds / max(expected, 1e-6))
        self._learned.speed_changed(model_id)

    def observe_decode(self, model_id: str, facts: Facts, seconds: float, tokens: int) -> None:
        """Add the time in which so many tokens followed the first one."""
        row = self.index.rows.get(model_id)
        if row is None or tokens < 1:
            return
        ratio = seconds / tokens * self.index.decode.item(row)
        self._ratios.observe_token(self._learned.pace_of(model_id), size_class(facts.prompt_tokens), ratio)
        self._learned.speed_changed(model_id)

    def observe_attempt(self, model_id: str, *, failed: bool, at: float, busy: float | None = None) -> None:
        """Add an attempt that ended at wall-clock time ``at``; ``busy`` is the seconds that it held a slot."""
        pace = self._learned.pace_of(model_id)
        self._ratios.observe_attempt(pace, failed=failed, at=at)
        if busy is not None:
            self._ratios.observe_busy(pace, busy)
        self._learned.speed_changed(model_id)

    def observe_output(self, task: Task, tokens: int) -> None:
        """Add the length of an answer that was not cut."""
        self._learned.output_observed(task, tokens)

    def _prior_below(self, known: Evidence | None, row: int | None) -> tuple[Floats | None, float]:
        """A copy of the prior in force, and its strength; ``None`` for a model of which nothing is known."""
        if known is not None:
            return known.prior.copy(), known.strength
        if row is None:
            return None, self._learning.prior_strength
        return self._priors[row].mean.copy(), self._priors[row].strength

    def _evidence_of(self, model_id: str) -> Evidence:
        evidence = self._learned.evidence.get(model_id)
        if evidence is None:
            row = self.index.rows.get(model_id)
            if row is None:
                prior, strength = np.full(len(TASKS), 0.5), self._learning.guess_strength
            else:
                prior, strength = self._priors[row].mean, self._priors[row].strength
            evidence = self._learned.evidence[model_id] = Evidence.fresh(prior, strength)
        return evidence

    # ---- stale rows

    def _refresh_quality(self) -> None:
        stale = self._learned.stale_quality
        while stale:
            model_id = stale.pop()
            row = self.index.rows.get(model_id)
            if row is not None:
                evidence = self._learned.evidence[model_id]
                if evidence.prior_is_the_catalogues:
                    prior = self._priors[row]
                    evidence.prior, evidence.strength = clip_mean(prior.mean), prior.strength
                self._columns.set_quality(row, evidence)

    def _refresh_speed(self) -> None:
        stale = self._learned.stale_speed
        while stale:
            model_id = stale.pop()
            row = self.index.rows.get(model_id)
            if row is not None:
                self._columns.set_speed(row, self._learned.paces[model_id])


def _check_shares(score: float, confidence: float) -> None:
    if not (0 <= score <= 1 and 0 <= confidence <= 1):
        raise ValueError(f"A score and its confidence lie in [0, 1], not {score!r} and {confidence!r}.")
