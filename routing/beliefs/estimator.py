"""What to expect of each model for given facts: quality, seconds and dollars, for all rows at once.

The estimator holds what was learned, by model id, and keeps dense arrays beside it whose row ``i`` is row
``i`` of the :class:`~catalog.index.Index` it is aligned with. An outcome changes one row; a decision reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from backends.workers.pool import PoolSnapshot, WorkerState, WorkerView
from catalog.index import UNITS, Floats, Index
from catalog.model import Capability, Model
from routing.beliefs.documents import (
    Journal,
    ModelDocument,
    read_document,
    read_outputs,
    read_pace,
    read_quality,
    write_pace,
    write_quality,
)
from routing.beliefs.posterior import (
    COMPLEXITIES,
    COMPLEXITY_AT,
    TASK_AT,
    TASKS,
    Evidence,
    QualityBook,
    believable,
)
from routing.beliefs.priors import prior_of, usual_benchmarks
from routing.beliefs.speed import SIZES, Pace, SpeedBook, size_class
from routing.facts import Complexity, Facts, Task
from routing.settings import RoutingSettings

RECOVERY_SECONDS = 600.0
"""After so long without a new failure, a model's failures weigh 1/e."""

_OUTPUTS = ":output-tokens"
"""The name of the one document that is not a model's; no model id begins so."""
_WRITERS = 50
_MOMENT = 0.2
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


_EVERY = slice(None)
_NOBODY: Mapping[str, float] = MappingProxyType({})
Rows = int | slice
"""One row, or all of them: what is computed alike for both."""


class Expectation(NamedTuple):
    """Of one model: quality in [0, 1], seconds to the whole answer, dollars (``None`` when unknown)."""

    quality: float
    latency: float
    cost: float | None


class Estimator:
    """Learned expectations. Not thread-safe: one event loop reads and writes it.

    It is a part of :mod:`routing.persistence`: ``export`` and ``adopt`` keep it in the store and in step with
    other gateways. ``writer`` names this process among them.
    """

    kind = "learned"

    def __init__(self, settings: RoutingSettings | None = None, *, writer: str | None = None) -> None:
        chosen = settings or RoutingSettings()
        self._learning = chosen.learning
        self._quality = QualityBook(chosen.learning, chosen.signals)
        self._speed = SpeedBook(chosen.learning)
        self._evidence: dict[str, Evidence] = {}
        self._paces: dict[str, Pace] = {}
        self._stale_paces: set[str] = set()
        self._stale_quality: set[str] = set()
        self._output = {task: _TYPICAL_OUTPUT.get(task, _OUTPUT_DEFAULT) for task in TASKS}
        self._writer = writer or uuid4().hex
        self._journals: dict[str, Journal] = {}
        self._stamps: dict[str, tuple[Any, Any]] = {}
        self._changed: set[str] = set()
        self.align(Index(()))

    # ---- alignment with the catalogue

    def align(self, index: Index) -> None:
        """Follow a new index. What was learned of models that are gone is kept, should they come back."""
        self.index = index
        count = len(index)
        self._usual = usual_benchmarks(index.models)
        priors = [self.prior(model) for model in index.models]
        means = believable(np.array([prior for prior, _ in priors])).reshape(count, len(TASKS))
        strengths = np.array([strength for _, strength in priors])
        self._mean: Floats = np.repeat(means.T[:, None, :], len(COMPLEXITIES), axis=1)
        self._strength: Floats = np.empty_like(self._mean)
        for strength in set(strengths.tolist()):
            _, cold = self._quality.posterior(Evidence.fresh(np.full(len(TASKS), 0.5), strength))
            self._strength[:, :, strengths == strength] = cold[:, :, None]
        self._doubt: Floats = self._quality.doubt(self._mean, self._strength)
        self._observed: Floats = np.zeros((len(TASKS), count))
        self._first: Floats = np.ones((SIZES, count))
        self._fixed_seconds: Floats = np.tile(index.base_seconds, (SIZES, 1))
        self._prompt_seconds: Floats = np.tile(1 / index.prefill, (SIZES, 1))
        self._token_seconds: Floats = np.tile(1 / index.decode, (SIZES, 1))
        self._unreliable: Floats = np.zeros(count)
        self._failed_at: Floats = np.zeros(count)
        self._has_failed = False
        self._stale_quality = self._evidence.keys() & index.rows.keys()
        self._stale_paces = self._paces.keys() & index.rows.keys()

    def prior(self, model: Model) -> tuple[Floats, float]:
        """Mean per task, shape (tasks,), and strength, of a model before any observation.

        See :func:`routing.beliefs.priors.prior_of`.
        """
        return prior_of(model, self._usual, self._learning)

    def refresh(self) -> None:
        """Bring every column up to what was learned, while nobody waits for it; else a decision has to."""
        self._refresh_quality()
        self._refresh_paces()

    # ---- reading

    def quality(self, task: Task, complexity: Complexity) -> tuple[Floats, Floats]:
        """Posterior mean in [0, 1] and strength in virtual observations, each of shape (n,). Do not write."""
        self._refresh_quality()
        at = TASK_AT[task], COMPLEXITY_AT[complexity]
        mean: Floats = self._mean[at]
        strength: Floats = self._strength[at]
        return mean, strength

    def doubt(self, task: Task, complexity: Complexity) -> Floats:
        """How far each quality may be off and still be worth a try, shape (n,); see :meth:`QualityBook.doubt`."""
        self._refresh_quality()
        doubt: Floats = self._doubt[TASK_AT[task], COMPLEXITY_AT[complexity]]
        return doubt

    def observations(self, task: Task) -> Floats:
        """How many explicit observations of a task each model has, discounted, shape (n,). Do not write."""
        self._refresh_quality()
        observed: Floats = self._observed[TASK_AT[task]]
        return observed

    def reliability(self, wall: float | None) -> Floats | None:
        """The share of attempts expected to be answered, shape (n,); ``None`` while no failure is known."""
        self._refresh_paces()
        if not self._has_failed:
            return None
        if wall is None:
            return 1 - self._unreliable
        faded: Floats = 1 - self._unreliable * np.exp((self._failed_at - wall).clip(max=0) / RECOVERY_SECONDS)
        return faded

    def output_tokens(self, facts: Facts) -> float:
        """Tokens the answer is expected to have: what this task usually takes, within the caller's bound."""
        if not self.decodes(facts):
            return 0.0
        typical = self._output[facts.task]
        return typical if facts.output_tokens is None else min(typical, float(facts.output_tokens))

    def latency(
        self, facts: Facts, pool: PoolSnapshot, now: float, queued_ahead: Mapping[str, float] = _NOBODY
    ) -> Floats:
        """Expected seconds to the whole answer, shape (n,): load, queue, prefill and decode."""
        seconds: Floats = self._service(facts, _EVERY)
        cold = self.index.load_seconds.copy()
        for worker in pool.workers:
            row = self.index.rows.get(worker.model)
            if row is not None:
                cold[row] = self._wait(worker, cold.item(row), seconds.item(row), now)
        for model, calls in queued_ahead.items():
            row = self.index.rows[model]
            cold[row] += calls * self._busy(model, seconds.item(row))
        seconds += cold
        return seconds

    def cost(self, facts: Facts, *, output: float | None = None) -> Floats:
        """Expected dollars, shape (n,); NaN where a price that matters is unknown."""
        dollars: Floats = self._cost(facts, output, _EVERY)
        return dollars

    def expect(
        self, row: int, facts: Facts, pool: PoolSnapshot, now: float, queued_ahead: Mapping[str, float] = _NOBODY
    ) -> Expectation:
        """What :meth:`quality`, :meth:`latency` and :meth:`cost` say of one row."""
        self._refresh_quality()
        seconds = float(self._service(facts, row))
        wait = self.index.load_seconds.item(row)
        for worker in pool.workers:
            if self.index.rows.get(worker.model) == row:
                wait = self._wait(worker, wait, seconds, now)
        if queued_ahead:
            model = self.index.models[row].id
            wait += queued_ahead.get(model, 0.0) * self._busy(model, seconds)
        dollars = float(self._cost(facts, None, row))
        return Expectation(
            quality=self._mean.item(TASK_AT[facts.task], COMPLEXITY_AT[facts.complexity], row),
            latency=seconds + wait,
            cost=None if math.isnan(dollars) else dollars,
        )

    def expected_quality(self, model_id: str, task: Task, complexity: Complexity) -> float:
        """Posterior mean of one model, 0.5 for one that is unknown here."""
        at = TASK_AT[task], COMPLEXITY_AT[complexity]
        row = self.index.rows.get(model_id)
        if row is not None:
            self._refresh_quality()
            return self._mean.item(*at, row)
        evidence = self._evidence.get(model_id)
        return 0.5 if evidence is None else float(self._quality.posterior(evidence)[0][at])

    def first_seconds(self, model_id: str, facts: Facts) -> float | None:
        """Expected seconds to the first token of one model, once it is loaded and free."""
        row = self.index.rows.get(model_id)
        if row is None:
            return None
        pace = self._paces.get(model_id)
        factor = 1.0 if pace is None else self._speed.first_factor(pace, size_class(facts.prompt_tokens))
        return factor * (self.index.base_seconds.item(row) + facts.prompt_tokens / self.index.prefill.item(row))

    def token_seconds(self, model_id: str, facts: Facts) -> float | None:
        """Expected seconds per token after the first one of one model."""
        row = self.index.rows.get(model_id)
        if row is None:
            return None
        pace = self._paces.get(model_id)
        factor = 1.0 if pace is None else self._speed.token_factor(pace, size_class(facts.prompt_tokens))
        return factor / self.index.decode.item(row)

    def service_seconds(self, model_id: str, facts: Facts) -> float | None:
        """Expected seconds to the whole answer of one model, once it is loaded and free."""
        row = self.index.rows.get(model_id)
        return None if row is None else float(self._service(facts, row))

    @staticmethod
    def decodes(facts: Facts) -> bool:
        """Whether the answer comes token by token."""
        return facts.capability in _DECODES and not facts.tokens_only

    def _service(self, facts: Facts, rows: Rows) -> Any:
        """Seconds once it is loaded and free: new and of shape (n,), or the one of a row."""
        self._refresh_paces()
        size = size_class(facts.prompt_tokens)
        seconds = self._fixed_seconds[size, rows] + facts.prompt_tokens * self._prompt_seconds[size, rows]
        tokens = self.output_tokens(facts)
        if tokens:
            seconds += tokens * self._token_seconds[size, rows]
        elif unit := _UNIT_SECONDS.get(facts.capability):
            seconds += facts.units * unit * self._first[size, rows]
        return seconds

    def _cost(self, facts: Facts, output: float | None, rows: Rows) -> Any:
        """Dollars: new and of shape (n,), or the one of a row."""
        prices = self.index.prices
        tokens = self.output_tokens(facts) if output is None else output
        unit = UNITS.get(facts.capability)
        if unit is not None and facts.capability is not Capability.RERANK:
            return prices[unit.field][rows] * (facts.units / unit.per)
        dollars = prices["input"][rows] * (facts.prompt_tokens * 1e-6)
        if tokens:
            dollars = dollars + prices["output"][rows] * (tokens * 1e-6)
        if unit is not None:
            per_search = prices[unit.field][rows] * (facts.units / unit.per)
            dollars = np.where(np.isnan(per_search), dollars, per_search)
        return dollars

    def _wait(self, worker: WorkerView, usual: float, service: float, now: float) -> float:
        """Seconds until a worker can begin: its load, ``usual`` unless it knows better, or its queue."""
        load = usual if worker.load_seconds is None else worker.load_seconds
        if worker.state is WorkerState.READY:
            waiting = max(0, worker.busy + worker.queued + 1 - worker.slots) / max(1, worker.slots)
            return waiting * self._busy(worker.model, service)
        if worker.state is WorkerState.STARTING and worker.started_at is not None:
            return max(_MOMENT, load - (now - worker.started_at))
        return load

    def _busy(self, model_id: str, fallback: float) -> float:
        pace = self._paces.get(model_id)
        return pace.busy if pace is not None and pace.busy > 0 else fallback

    # ---- remembering

    def export(self) -> dict[str, Any]:
        """What changed since the last export, as JSON documents by model id."""
        changed, self._changed = self._changed, set()
        documents: dict[str, Any] = {}
        for name in changed:
            if name == _OUTPUTS:
                documents[name] = {task.value: tokens for task, tokens in self._output.items()}
                continue
            journal, evidence, pace = self._journal(name), self._evidence.get(name), self._paces.get(name)
            document = ModelDocument(
                writer=self._writer,
                heard={**journal.heard, self._writer: journal.number},
                quality=None if evidence is None else write_quality(evidence),
                pace=None if pace is None else write_pace(pace),
            )
            documents[name] = document.model_dump(mode="json")
        return documents

    def adopt(self, documents: Mapping[str, Any]) -> None:
        """Take over what an earlier run or another gateway learned; what cannot be believed is passed over."""
        for name, raw in documents.items():
            if not isinstance(raw, dict):
                continue
            if name == _OUTPUTS:
                if name not in self._changed:
                    self._output |= read_outputs(raw)
                continue
            stamp = raw.get("writer"), raw.get("heard")
            if stamp[0] == self._writer or self._stamps.get(name) == stamp:
                continue
            self._stamps[name] = stamp
            document = read_document(raw)
            if document is not None:
                self._adopt(name, document)

    def _adopt(self, name: str, document: ModelDocument) -> None:
        journal = self._journal(name)
        if document.quality is not None:
            own, evidence = self._evidence.get(name), read_quality(document.quality)
            if own is not None and own.changes > evidence.changes:
                # A change was detected here that the other side has not seen yet: this belief is the newer one.
                self._changed.add(name)
            else:
                if own is not None and own.changes == evidence.changes:
                    evidence.continue_watch(own)
                included = document.heard.get(self._writer, 0)
                for seen in journal.kept:
                    if seen.number > included:
                        add = self._quality.hint if seen.hint else self._quality.add
                        add(evidence, seen.task, seen.complexity, seen.score, seen.confidence)
                        self._changed.add(name)
                self._evidence[name] = evidence
                self._stale_quality.add(name)
        if document.pace is not None:
            self._paces[name] = read_pace(document.pace)
            self._stale_paces.add(name)
        for writer, number in document.heard.items():
            if writer != self._writer:
                journal.heard[writer] = max(number, journal.heard.get(writer, 0))
        while len(journal.heard) > _WRITERS:
            del journal.heard[next(iter(journal.heard))]

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
        at = TASK_AT[task], COMPLEXITY_AT[complexity]
        belief = self.expected_quality(model_id, task, complexity)
        changed = self._quality.observe(evidence, *at, score, confidence, belief)
        self._journal(model_id).note(*at, score, confidence, hint=False)
        self._learned(model_id)
        return changed

    def hint_quality(
        self, model_id: str, task: Task, complexity: Complexity, score: float, confidence: float
    ) -> None:
        """Add an implicit observation; all of them together weigh little (``implicit_memory``)."""
        _check_share(score, confidence)
        at = TASK_AT[task], COMPLEXITY_AT[complexity]
        self._quality.hint(self._evidence_of(model_id), *at, score, confidence)
        self._journal(model_id).note(*at, score, confidence, hint=True)
        self._learned(model_id)

    def seed(self, model_id: str, priors: Mapping[Task, float]) -> bool:
        """Set priors, by task, in [0, 1], believed as they are: who imports them measured for this use.

        False when the model was observed: observation stands.
        """
        for score in priors.values():
            _check_share(score, 1.0)
        known = self._evidence.get(model_id)
        if not priors or (known is not None and known.seen > 0):
            return False
        overall = sum(priors.values()) / len(priors)
        means = np.array([priors.get(task, overall) for task in TASKS])
        self._evidence[model_id] = Evidence.fresh(means, self._learning.prior_strength)
        self._journal(model_id).number += 1
        self._learned(model_id)
        return True

    def observe_first(self, model_id: str, facts: Facts, seconds: float) -> None:
        """The first token (or, where nothing is decoded, the answer) came after so long, queue not counted."""
        row = self.index.rows.get(model_id)
        if row is None:
            return
        size = size_class(facts.prompt_tokens)
        expected = self.index.base_seconds.item(row) + facts.prompt_tokens / self.index.prefill.item(row)
        if facts.capability not in _DECODES:
            expected += facts.units * _UNIT_SECONDS.get(facts.capability, 0.0)
        self._speed.first(self._pace_of(model_id), size, seconds / max(expected, 1e-6))
        self._paced(model_id)

    def observe_decode(self, model_id: str, facts: Facts, seconds: float, tokens: int) -> None:
        """So many tokens came in so many seconds after the first one."""
        row = self.index.rows.get(model_id)
        if row is None or tokens < 1:
            return
        ratio = seconds / tokens * self.index.decode.item(row)
        self._speed.token(self._pace_of(model_id), size_class(facts.prompt_tokens), ratio)
        self._paced(model_id)

    def observe_attempt(self, model_id: str, *, failed: bool, at: float, busy: float | None = None) -> None:
        """An attempt ended at wall-clock time ``at``; ``busy`` is the seconds that it held a slot."""
        pace = self._pace_of(model_id)
        self._speed.attempted(pace, failed=failed, at=at)
        if busy is not None:
            self._speed.occupied(pace, busy)
        self._paced(model_id)

    def observe_output(self, task: Task, tokens: int) -> None:
        """An answer that nobody cut had so many tokens."""
        self._output[task] += 0.05 * (min(max(tokens, 1), 100_000) - self._output[task])
        self._changed.add(_OUTPUTS)

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
        pace = self._paces.get(model_id)
        if pace is None:
            pace = self._paces[model_id] = Pace()
        return pace

    def _journal(self, model_id: str) -> Journal:
        journal = self._journals.get(model_id)
        if journal is None:
            journal = self._journals[model_id] = Journal.new()
        return journal

    def _learned(self, model_id: str) -> None:
        self._changed.add(model_id)
        self._stale_quality.add(model_id)

    def _paced(self, model_id: str) -> None:
        self._changed.add(model_id)
        self._journal(model_id).number += 1
        self._stale_paces.add(model_id)

    def _refresh_quality(self) -> None:
        """Bring the columns up to what was learned: many outcomes may teach before a decision reads."""
        while self._stale_quality:
            model_id = self._stale_quality.pop()
            row = self.index.rows.get(model_id)
            if row is not None:
                evidence = self._evidence[model_id]
                mean, strength = self._quality.posterior(evidence)
                self._mean[:, :, row], self._strength[:, :, row] = mean, strength
                self._doubt[:, :, row] = self._quality.doubt(mean, strength)
                self._observed[:, row] = evidence.counts.sum(axis=1)

    def _refresh_paces(self) -> None:
        """The same for speed."""
        while self._stale_paces:
            self._refresh_pace(self._stale_paces.pop())

    def _refresh_pace(self, model_id: str) -> None:
        row = self.index.rows.get(model_id)
        if row is None:
            return
        pace = self._paces[model_id]
        of_first, of_token = self._speed.factors(pace)
        self._first[:, row] = first = np.array(of_first)
        self._fixed_seconds[:, row] = self.index.base_seconds[row] * first
        self._prompt_seconds[:, row] = first / self.index.prefill[row]
        self._token_seconds[:, row] = np.array(of_token) / self.index.decode[row]
        self._unreliable[row] = self._speed.unreliability(pace)
        self._has_failed = self._has_failed or bool(self._unreliable.item(row))
        self._failed_at[row] = pace.failed_at


def _check_share(score: float, confidence: float) -> None:
    if not (0 <= score <= 1 and 0 <= confidence <= 1):
        raise ValueError(f"A score and its confidence lie in [0, 1], not {score!r} and {confidence!r}.")
