"""Each signal touches only what it is evidence of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.workers.pool import PoolSnapshot
from catalog.errors import InvalidRequest
from catalog.index import Index
from routing.beliefs.estimator import Estimator
from routing.beliefs.learning import Learner
from routing.facts import Complexity, Task
from routing.outcomes import Outcome, Result, Usage
from tests.routing.catalogue import SETTINGS, chat, remote
from tests.routing.outcome_factory import outcome

FACTS = chat(prompt_digest="digest", key="caller")


def taught(*outcomes: Outcome) -> Estimator:
    estimator = Estimator(SETTINGS, writer="test")
    estimator.align(Index([remote("model"), remote("other")], version=1))
    learner = Learner(estimator, SETTINGS)
    for each in outcomes:
        learner.record(each)
    return estimator


def attempt(result: Result = Result.SUCCESS, **changes: Any) -> Outcome:
    return outcome(
        result, **{"facts": FACTS, "duration": 2.0, "first_chunk": 0.5, "finish_reason": "stop", **changes}
    )


def quality(of: Estimator, model: str = "model") -> float:
    return of.expected_quality(model, Task.CHAT, Complexity.SIMPLE)


def service_seconds(of: Estimator, model: str = "model") -> float:
    """Expected seconds to the whole answer of a model that is loaded and idle."""
    return of.expect(of.index.rows[model], FACTS, PoolSnapshot(), 0.0).latency


UNTOUCHED = quality(taught())


@pytest.mark.parametrize(
    "result", [Result.REFUSAL, Result.CANCELLED, Result.REJECTED, Result.CANNOT, Result.FAILED]
)
def test_only_an_answer_says_anything_of_quality(result: Result) -> None:
    assert quality(taught(*[attempt(result, error="upstream_unreachable", valid=False)] * 20)) == UNTOUCHED


def test_a_transport_failure_counts_against_reliability_alone() -> None:
    made = taught(*[attempt(Result.FAILED, error="upstream_unreachable", first_chunk=None)] * 5)
    shares = made.reliability(None)
    assert shares is not None
    assert shares[0] < 0.6
    assert shares[1] == 1.0


@pytest.mark.parametrize("error", ["upstream_rate_limited", "upstream_rejected_key", "internal_error"])
def test_a_failure_of_a_key_or_of_our_own_is_no_failure_of_the_model(error: str) -> None:
    assert taught(attempt(Result.FAILED, error=error, first_chunk=None)).reliability(None) is None


@pytest.mark.parametrize("result", [Result.REFUSAL, Result.REJECTED, Result.CANCELLED, Result.CANNOT])
def test_refusal_rejection_and_cancellation_leave_reliability_alone(result: Result) -> None:
    assert taught(*[attempt(result)] * 5).reliability(None) is None


def test_an_invalid_answer_counts_much_and_a_valid_one_less() -> None:
    invalid, valid = taught(attempt(valid=False)), taught(attempt(valid=True))
    assert quality(invalid) < UNTOUCHED < quality(valid)
    assert UNTOUCHED - quality(invalid) > quality(valid) - UNTOUCHED


def test_an_answer_cut_short_counts_against_the_model_only_when_nobody_asked_for_the_cut() -> None:
    cut = taught(*[attempt(finish_reason="length")] * 10)
    asked = taught(*[attempt(finish_reason="length", facts=replace(FACTS, output_tokens=5))] * 10)
    assert quality(cut) < UNTOUCHED <= quality(asked)


def test_the_same_question_asked_again_soon_speaks_against_the_first_answer() -> None:
    first = attempt(trace="one", at=1000.0)
    again = attempt(trace="two", at=1030.0, model="other")
    later = attempt(trace="two", at=1000.0 + 3600, model="other")
    somebody_else = attempt(trace="two", at=1030.0, model="other", facts=replace(FACTS, key="another"))
    alone = quality(taught(first))
    assert quality(taught(first, again)) < alone
    assert quality(taught(first, later)) == alone
    assert quality(taught(first, somebody_else)) == alone
    assert quality(taught(first, replace(again, trace="one"))) == alone, (
        "a second attempt of one request is no repeat"
    )


def test_completed_answers_say_little_however_many() -> None:
    assert abs(quality(taught(*[attempt(trace=str(n), at=1e6 * n) for n in range(1000)])) - UNTOUCHED) < 0.1


def test_the_first_token_and_the_pace_after_it_are_learned_without_the_queue() -> None:
    slow = attempt(queued=30.0, first_chunk=31.0, duration=41.0, usage=Usage(input=100, output=101))
    made = taught(*[slow] * 60)
    assert made.first_seconds("model", FACTS) == pytest.approx(1.0, rel=0.1)
    tokens = made.output_tokens(FACTS)
    assert service_seconds(made) == pytest.approx(1.0 + 0.1 * tokens, rel=0.1)


def test_an_answer_in_one_piece_teaches_how_long_all_of_it_takes_and_nothing_of_its_parts() -> None:
    def seconds(of: Estimator) -> tuple[float, float]:
        first = of.first_seconds("model", FACTS)
        assert first is not None
        return first, (service_seconds(of) - first) / of.output_tokens(FACTS)

    whole = attempt(
        unstreamed=True, queued=30.0, first_chunk=None, duration=41.0, usage=Usage(input=100, output=101)
    )
    first, token = seconds(taught(*[whole] * 60))
    usual_first, usual_token = seconds(taught())
    assert first + 100 * token == pytest.approx(11.0, rel=0.1)
    assert first / usual_first == pytest.approx(token / usual_token, rel=0.01)


def test_a_caller_who_left_a_call_in_one_piece_teaches_nothing_of_its_first_token() -> None:
    left = taught(*[attempt(Result.CANCELLED, unstreamed=True, first_chunk=None, duration=60.0)] * 10)
    assert left.first_seconds("model", FACTS) == taught().first_seconds("model", FACTS)


def test_a_caller_who_left_while_waiting_teaches_how_long_it_takes_at_least() -> None:
    usual = taught().first_seconds("model", FACTS)
    assert usual is not None
    left_late = taught(*[attempt(Result.CANCELLED, first_chunk=None, duration=60.0)] * 10)
    left_early = taught(*[attempt(Result.CANCELLED, first_chunk=None, duration=0.01)] * 10)
    assert (left_late.first_seconds("model", FACTS) or 0) > 10 * usual
    assert left_early.first_seconds("model", FACTS) == usual


def test_a_report_moves_its_task_and_says_by_how_much() -> None:
    made = taught()
    update = Learner(made, SETTINGS).report(replace(FACTS, task=Task.CODE), "model", 0.0, trace="t")
    assert update.task is Task.CODE
    assert update.after < update.before
    moved = update.before - update.after
    assert UNTOUCHED - quality(made) < moved / 2


def test_a_trace_is_reported_once_and_a_score_is_a_share() -> None:
    learner = Learner(taught(), SETTINGS)
    learner.report(FACTS, "model", 1.0, trace="t")
    with pytest.raises(InvalidRequest, match="before"):
        learner.report(FACTS, "model", 0.0, trace="t")
    with pytest.raises(InvalidRequest, match="between"):
        learner.report(FACTS, "model", float("nan"))


def test_benchmarks_seed_models_never_observed_and_a_mistake_imports_nothing() -> None:
    made = taught()
    learner = Learner(made, SETTINGS)
    learner.report(FACTS, "other", 1.0)
    taken = learner.import_priors({"model": {"chat": 0.9}, "other": {"chat": 0.1}})
    assert taken == {"model": True, "other": False}
    assert quality(made) == pytest.approx(0.9)
    assert quality(made, "other") > 0.6
    with pytest.raises(InvalidRequest, match="no task"):
        learner.import_priors({"model": {"chat": 0.2, "dance": 0.5}})
    with pytest.raises(InvalidRequest, match="between"):
        learner.import_priors({"model": {"chat": 1.2}})
    assert quality(made) == pytest.approx(0.9)
