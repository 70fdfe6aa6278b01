"""Learns from outcomes and reports. Each signal updates only what it is evidence of.

============================  ===============================================  ===========================
signal                        evidence of                                      no evidence of
============================  ===============================================  ===========================
transport failure             reliability of the model or its upstream         quality
first token, tokens/s         speed at this prompt size
caller left while waiting     a lower bound of the time to the first token     quality
refusal                       reliability                                      quality
answer valid or invalid       quality, nearly as certain as a report
cut by the model's own limit  quality, weak (by the caller's limit: none)
same prompt asked again soon  quality of the earlier answer, weak
success without any of these  quality, very weak
explicit report               quality
============================  ===============================================  ===========================

The weak signals are hints: any number of them together weigh no more than ``Signals.implicit_memory`` reports.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from catalog.benchmarks import OVERALL
from catalog.errors import InvalidRequest
from routing.beliefs.documents import ModelProfile
from routing.beliefs.estimator import Estimator
from routing.beliefs.expectations import decodes
from routing.facts import Complexity, Facts, Task
from routing.outcomes import Outcome, Result
from routing.settings import RoutingSettings, Signal

K = TypeVar("K")
V = TypeVar("V")

_MAX_REMEMBERED = 4096
_UNRELIABLE = frozenset(
    {
        "upstream_error",
        "upstream_unreachable",
        "upstream_protocol_error",
        "upstream_overloaded",
        "upstream_timeout",
        "connect_timeout",
        "first_byte_timeout",
        "idle_timeout",
        "total_timeout",
        "stream_broken",
        "worker_failed",
    }
)
"""Error codes of the model or its upstream; the others concern keys, money or the caller."""


@dataclass(frozen=True, slots=True)
class QualityUpdate:
    """Effect of one report: the expected quality of the model at this task before and after it.

    ``changed``: the change detector fired.
    """

    model: str
    task: Task
    complexity: Complexity
    before: float
    after: float
    changed: bool


@dataclass(frozen=True, slots=True)
class _AnsweredPrompt:
    model: str
    trace: str
    facts: Facts
    at: float


class Learner:
    """Updates the estimator from outcomes and reports. An :class:`~routing.outcomes.OutcomeSink`."""

    def __init__(self, estimator: Estimator, settings: RoutingSettings | None = None) -> None:
        self._estimator = estimator
        self._signals = (settings or RoutingSettings()).signals
        self._answered: OrderedDict[tuple[str, str], _AnsweredPrompt] = OrderedDict()
        self._reported: OrderedDict[str, None] = OrderedDict()

    def record(self, outcome: Outcome) -> None:
        """Learn from one attempt."""
        facts = outcome.facts
        if facts.tokens_only or outcome.result in (Result.CANNOT, Result.REJECTED):
            return
        if outcome.result is Result.FAILED:
            self._learn_failure(outcome)
            return
        self._learn_speed(outcome)
        if outcome.result is Result.CANCELLED:
            return
        busy = max(0.0, outcome.duration - outcome.queued)
        self._estimator.observe_attempt(outcome.model, failed=False, at=outcome.at, busy=busy)
        if outcome.result is Result.SUCCESS and not facts.probe:
            self._learn_repeat(outcome)
            self._learn_quality(outcome)

    def report(self, facts: Facts, model: str, score: float, *, trace: str | None = None) -> QualityUpdate:
        """Learn from an explicit report on an answer. ``score`` is 0 (rejected) to 1 (accepted).

        Raises InvalidRequest for a score outside [0, 1], or when ``trace`` was reported before.
        """
        if not 0 <= score <= 1:
            raise InvalidRequest(f"A score lies between 0 (bad) and 1 (good), not {score!r}.", param="score")
        if trace is not None:
            if trace in self._reported:
                raise InvalidRequest(f"The outcome of trace '{trace[:80]}' was reported before.", param="trace")
            _remember(self._reported, trace, None)
        before = self._estimator.expected_quality(model, facts.task, facts.complexity)
        changed = self._estimator.observe_quality(model, facts.task, facts.complexity, score)
        after = self._estimator.expected_quality(model, facts.task, facts.complexity)
        return QualityUpdate(model, facts.task, facts.complexity, before, after, changed)

    def report_comparison(
        self, facts: Facts, model: str, other: str, share: float, confidence: float
    ) -> tuple[float, float]:
        """Learn from a comparison: ``share`` in [0, 1] says how far ``model`` answered better than ``other``.

        A comparison says nothing of how good both are. So each gets an observation around their common mean, moved
        apart by the verdict; of equals (a share of a half) both get the mean. Returns the two scores.
        """
        task, complexity = facts.task, facts.complexity
        estimator = self._estimator
        mean = (
            estimator.expected_quality(model, task, complexity)
            + estimator.expected_quality(other, task, complexity)
        ) / 2
        scores = min(1.0, max(0.0, mean + share - 0.5)), min(1.0, max(0.0, mean - share + 0.5))
        for name, score in zip((model, other), scores, strict=True):
            estimator.observe_quality(name, task, complexity, score, confidence)
        return scores

    def import_priors(
        self,
        benchmarks: Mapping[str, Mapping[str, float]],
        *,
        origin: str = "imported",
        observed: bool = False,
        strength: float | None = None,
    ) -> dict[str, bool]:
        """Seed models with benchmark scores in [0, 1], by model id and task or ``overall``.

        Returns, by model id, whether its scores were taken: those of an observed model only with ``observed``,
        which keeps its observations. ``strength`` is what the priors are worth in observations, by default what
        benchmarks are. Raises InvalidRequest, without effect, for an unknown task or a score outside
        [0, 1].
        """
        parsed = {
            model: {name if name == OVERALL else _task(name): _score(value) for name, value in row.items()}
            for model, row in benchmarks.items()
        }
        taken: dict[str, bool] = {}
        for model, row in parsed.items():
            by_task = {task: score for task, score in row.items() if isinstance(task, Task)}
            taken[model] = self._estimator.seed(
                model, by_task, overall=row.get(OVERALL), origin=origin, observed=observed, strength=strength
            )
        return taken

    def export_profile(self) -> dict[str, ModelProfile]:
        """See :meth:`Estimator.export_profile`."""
        return self._estimator.export_profile()

    def import_profile(self, models: Mapping[str, ModelProfile], *, weight: float, origin: str) -> dict[str, bool]:
        """See :meth:`Estimator.import_profile`."""
        return self._estimator.import_profile(models, weight=weight, origin=origin)

    # ---- one attempt

    def _learn_failure(self, outcome: Outcome) -> None:
        if outcome.error not in _UNRELIABLE:
            return
        self._estimator.observe_attempt(outcome.model, failed=True, at=outcome.at)
        if outcome.first_chunk is None and not outcome.unstreamed and outcome.error == "first_byte_timeout":
            self._learn_wait(outcome)

    def _learn_speed(self, outcome: Outcome) -> None:
        if outcome.unstreamed:
            self._learn_speed_of_unstreamed(outcome)
            return
        if outcome.first_chunk is None:
            if outcome.result is Result.CANCELLED:
                self._learn_wait(outcome)
            return
        facts, estimator = outcome.facts, self._estimator
        first = max(0.0, outcome.first_chunk - outcome.queued)
        if not decodes(facts):
            if outcome.result is not Result.CANCELLED:
                estimator.observe_first(outcome.model, facts, max(0.0, outcome.duration - outcome.queued))
            return
        cached = outcome.usage.cached / outcome.usage.input if outcome.usage.cached else 0.0
        estimator.observe_first(outcome.model, facts, first, cached=cached)
        if outcome.result is Result.CANCELLED or not outcome.usage.known:
            return
        tokens = outcome.usage.output
        if tokens > 1:
            estimator.observe_decode(outcome.model, facts, outcome.duration - outcome.first_chunk, tokens - 1)
        if outcome.finish_reason != "length" and not facts.probe:
            estimator.observe_output(facts.task, tokens)

    def _learn_speed_of_unstreamed(self, outcome: Outcome) -> None:
        """Learn from an answer in one piece: its prefill and decode are scaled by the same ratio."""
        facts, estimator, tokens = outcome.facts, self._estimator, outcome.usage.output
        if outcome.result is Result.CANCELLED or not outcome.usage.known or tokens < 1:
            return
        first, each = estimator.first_seconds(outcome.model, facts), estimator.token_seconds(outcome.model, facts)
        if first is None or each is None:
            return
        decode = each * (tokens - 1)
        ratio = max(0.0, outcome.duration - outcome.queued) / max(first + decode, 1e-6)
        estimator.observe_first(outcome.model, facts, first * ratio)
        if tokens > 1:
            estimator.observe_decode(outcome.model, facts, decode * ratio, tokens - 1)
        if outcome.finish_reason != "length" and not facts.probe:
            estimator.observe_output(facts.task, tokens)

    def _learn_wait(self, outcome: Outcome) -> None:
        """Learn a lower bound of the time to the first token: the caller left, or it timed out, before it came."""
        waited = outcome.duration - outcome.queued
        expected = self._estimator.first_seconds(outcome.model, outcome.facts)
        if expected is not None and waited > expected:
            self._estimator.observe_first(outcome.model, outcome.facts, waited)

    def _learn_repeat(self, outcome: Outcome) -> None:
        """The same caller repeats a prompt soon after its answer: a hint against the earlier answer."""
        facts = outcome.facts
        if not facts.prompt_digest:
            return
        name = (facts.key, facts.prompt_digest)
        began = outcome.at - outcome.duration
        earlier = self._answered.pop(name, None)
        if (
            earlier is not None
            and earlier.trace != outcome.trace
            and 0 <= began - earlier.at <= self._signals.asked_again_within
        ):
            self._hint(earlier.model, earlier.facts, self._signals.asked_again)
        _remember(self._answered, name, _AnsweredPrompt(outcome.model, outcome.trace, facts, outcome.at))

    def _learn_quality(self, outcome: Outcome) -> None:
        facts, signals = outcome.facts, self._signals
        if outcome.valid is not None:
            signal = signals.valid if outcome.valid else signals.invalid
            self._estimator.observe_quality(
                outcome.model, facts.task, facts.complexity, signal.score, signal.confidence
            )
        elif outcome.finish_reason == "length" and facts.output_tokens is None:
            self._hint(outcome.model, facts, signals.cut)
        else:
            self._hint(outcome.model, facts, signals.completed)

    def _hint(self, model: str, facts: Facts, signal: Signal) -> None:
        self._estimator.hint_quality(model, facts.task, facts.complexity, signal.score, signal.confidence)


def _remember(store: OrderedDict[K, V], name: K, value: V) -> None:
    store[name] = value
    if len(store) > _MAX_REMEMBERED:
        store.popitem(last=False)


def _task(name: str) -> Task:
    try:
        return Task(name)
    except ValueError:
        known = ", ".join(task.value for task in Task)
        raise InvalidRequest(f"'{name[:50]}' is no task. Tasks are: overall, {known}.", param="task") from None


def _score(value: float) -> float:
    if not 0 <= value <= 1:
        raise InvalidRequest(f"A benchmark score lies between 0 and 1, not {value!r}.", param="score")
    return value
