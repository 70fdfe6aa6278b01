"""Expectations of a model: belief that borrows, speed that is learned, and state that survives damage."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.workers.pool import PoolSnapshot
from catalog.index import Index
from catalog.model import Capability, Performance, Price, Size
from routing.beliefs.estimator import Estimator
from routing.facts import Complexity, Facts, Task
from routing.settings import Learning, RoutingSettings
from tests.routing.catalogue import chat, local, remote

SIMPLE, HARD = Complexity.SIMPLE, Complexity.COMPLEX


def estimator(*rows: Any, writer: str = "here", **learning: Any) -> Estimator:
    made = Estimator(RoutingSettings(learning=Learning(**learning)), writer=writer)
    made.align(Index(rows or [remote("a"), remote("b")], version=1))
    return made


def believed(of: Estimator, task: Task, complexity: Complexity = SIMPLE, row: int = 0) -> float:
    return float(of.quality(task, complexity)[0][row])


def certain(of: Estimator, task: Task, complexity: Complexity = SIMPLE, row: int = 0) -> float:
    return float(of.quality(task, complexity)[1][row])


# ---- quality


def test_before_any_observation_a_tasks_own_benchmark_is_believed_before_the_overall_one() -> None:
    made = estimator(remote("a", benchmarks={"code": 0.2, "overall": 0.8}))
    assert believed(made, Task.CODE) == pytest.approx(0.2)
    assert believed(made, Task.EXTRACT) == pytest.approx(0.8)


def test_benchmarks_of_some_tasks_say_nothing_of_the_others_and_little_in_all() -> None:
    some = {"chat": 0.3, "reasoning": 0.01}
    made = estimator(remote("some", benchmarks=some), remote("none", benchmarks={}), benchmark_trust=1.0)
    assert believed(made, Task.CHAT) == pytest.approx(0.3)
    assert believed(made, Task.REASONING) == pytest.approx(0.01)
    assert believed(made, Task.CLASSIFY) == believed(made, Task.CLASSIFY, row=1)
    assert certain(made, Task.CHAT) == certain(made, Task.CHAT, row=1)
    percent = estimator(remote("percent", benchmarks={"overall": 60, "chat": 0.3}), remote("none", benchmarks={}))
    assert certain(percent, Task.CHAT) == certain(percent, Task.CHAT, row=1), "a percentage is no share"


def test_a_benchmark_is_believed_the_nearer_to_the_mean_of_its_kind_the_less_benchmarks_are_trusted() -> None:
    rows = [
        remote("a", benchmarks={"overall": 0.9}),
        remote("b", benchmarks={"overall": 0.5}),
        remote("vectors", benchmarks={"overall": 0.1}, capabilities=frozenset({Capability.EMBED})),
    ]
    made = estimator(*rows, benchmark_trust=0.5)
    assert [believed(made, Task.CHAT, row=row) for row in range(3)] == pytest.approx([0.8, 0.6, 0.1])
    trusting = estimator(*rows, benchmark_trust=1.0)
    assert [believed(trusting, Task.CHAT, row=row) for row in range(3)] == pytest.approx([0.9, 0.5, 0.1])


def test_without_benchmarks_a_larger_model_is_believed_better_but_less_surely_than_a_measured_one() -> None:
    small = local("small", benchmarks={}, size=Size(parameters=135_000_000))
    large = local("large", benchmarks={}, size=Size(parameters=70_000_000_000))
    made = estimator(small, large, remote("measured"))
    assert believed(made, Task.CHAT, row=0) < believed(made, Task.CHAT, row=1)
    assert certain(made, Task.CHAT, row=0) < certain(made, Task.CHAT, row=2)


def test_observation_overrides_the_prior() -> None:
    made = estimator(remote("a", benchmarks={"overall": 0.9}), change_threshold=1e9)
    for _ in range(300):
        made.observe_quality("a", Task.CHAT, SIMPLE, 0.0)
    assert believed(made, Task.CHAT) < 0.06


def test_what_is_seen_of_one_task_alone_moves_no_other() -> None:
    made = estimator()
    for _ in range(1000):
        made.observe_quality("a", Task.CHAT, SIMPLE, 1.0)
    assert believed(made, Task.CHAT) > 0.95
    assert believed(made, Task.CODE) == pytest.approx(believed(estimator(), Task.CODE))


def test_a_fall_seen_in_one_task_alone_is_not_the_others() -> None:
    made = estimator()
    for score in (1.0, 0.0):
        for _ in range(100):
            made.observe_quality("a", Task.CHAT, SIMPLE, score)
    assert believed(made, Task.CHAT) < 0.2
    assert believed(made, Task.CODE) == pytest.approx(believed(estimator(), Task.CODE), abs=0.02)


def test_a_second_task_lets_both_speak_for_the_model_but_never_with_more_than_their_own_strength() -> None:
    made = estimator()
    for _ in range(1000):
        made.observe_quality("a", Task.CHAT, SIMPLE, 1.0)
    for _ in range(10):
        made.observe_quality("a", Task.EXTRACT, SIMPLE, 1.0)
    assert 0.6 < believed(made, Task.CODE) < 0.9


def test_tasks_that_agree_say_more_about_the_model_than_one_task_alone() -> None:
    alone, together = estimator(), estimator()
    for number in range(60):
        alone.observe_quality("a", Task.CODE, SIMPLE, 1.0)
        together.observe_quality("a", list(Task)[1 + number % 6], SIMPLE, 1.0)
    assert believed(together, Task.CHAT) > believed(alone, Task.CHAT) + 0.05


def test_complexities_of_a_task_lend_to_each_other_more_than_tasks_do() -> None:
    made = estimator()
    for _ in range(30):
        made.observe_quality("a", Task.CODE, SIMPLE, 1.0)
        made.observe_quality("a", Task.EXTRACT, SIMPLE, 1.0)
    assert (
        believed(made, Task.CODE, SIMPLE) > believed(made, Task.CODE, HARD) > believed(made, Task.CHAT, HARD) > 0.6
    )


def test_a_sudden_fall_is_noticed_within_forty_answers_and_an_even_course_is_not() -> None:
    made = estimator(remote("a", benchmarks={"overall": 0.8}))
    coins = np.random.default_rng(3).random(1000)
    tasks = (Task.CHAT, Task.CODE)

    def answers(share: float, first: int, last: int) -> list[bool]:
        return [
            made.observe_quality("a", tasks[at % 2], SIMPLE, float(coins[at] < share)) for at in range(first, last)
        ]

    assert not any(answers(0.8, 0, 500))
    assert True in answers(0.32, 500, 560)[:40]
    assert believed(made, Task.CHAT) < 0.5
    assert believed(made, Task.EXTRACT) < 0.6, "the fall is believed of the tasks where it was not yet seen, too"


def test_a_rise_is_noticed_too() -> None:
    made = estimator(remote("a", benchmarks={"overall": 0.3}))
    coins = np.random.default_rng(4).random(1000)
    for coin in coins[:300]:
        made.observe_quality("a", Task.CHAT, SIMPLE, float(coin < 0.3))
    noticed = [made.observe_quality("a", Task.CHAT, SIMPLE, float(coin < 0.95)) for coin in coins[300:360]]
    assert True in noticed
    assert believed(made, Task.CHAT) > 0.7


def test_any_number_of_hints_weighs_little() -> None:
    made = estimator()
    for _ in range(5000):
        made.hint_quality("a", Task.CHAT, SIMPLE, 1.0, 0.05)
    assert believed(made, Task.CHAT) < 0.85
    assert made.observations(Task.CHAT)[0] == 0


def test_a_seed_sets_the_prior_of_a_model_never_observed_and_of_no_other() -> None:
    made = estimator()
    assert made.seed("a", {Task.CODE: 0.9, Task.CHAT: 0.5})
    assert believed(made, Task.CODE) == pytest.approx(0.9)
    made.observe_quality("b", Task.CODE, SIMPLE, 1.0)
    before = believed(made, Task.CODE, row=1)
    assert not made.seed("b", {Task.CODE: 0.1})
    assert believed(made, Task.CODE, row=1) == before


@pytest.mark.parametrize(("score", "confidence"), [(1.1, 1.0), (-0.1, 1.0), (float("nan"), 1.0), (0.5, 2.0)])
def test_a_score_outside_its_range_is_refused(score: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="lie in"):
        estimator().observe_quality("a", Task.CHAT, SIMPLE, score, confidence)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(Task), st.sampled_from(Complexity), st.floats(0, 1), st.floats(0, 1), st.booleans()
        ),
        max_size=60,
    )
)
def test_whatever_is_observed_belief_stays_a_probability_and_certainty_positive(
    seen: list[tuple[Task, Complexity, float, float, bool]],
) -> None:
    made = estimator(change_threshold=1.0)
    for task, complexity, score, confidence, hint in seen:
        (made.hint_quality if hint else made.observe_quality)("a", task, complexity, score, confidence)
    for task in Task:
        for complexity in Complexity:
            mean, strength = made.quality(task, complexity)
            assert np.all((mean > 0) & (mean < 1))
            assert np.all(np.isfinite(strength) & (strength > 0))
    fresh = estimator(writer="there")
    fresh.adopt(json.loads(json.dumps(made.export())))
    assert believed(fresh, Task.CHAT) == pytest.approx(believed(made, Task.CHAT))


# ---- alignment


def test_learning_follows_its_model_through_a_changed_catalogue_and_waits_for_its_return() -> None:
    made = estimator()
    for _ in range(20):
        made.observe_quality("b", Task.CHAT, SIMPLE, 1.0)
    learned = believed(made, Task.CHAT, row=1)
    made.align(Index([remote("c"), remote("b"), remote("a")], version=2))
    assert believed(made, Task.CHAT, row=1) == pytest.approx(learned)
    made.align(Index([remote("c")], version=3))
    made.align(Index([remote("b")], version=4))
    assert believed(made, Task.CHAT) == pytest.approx(learned)


# ---- seconds and dollars


def test_latency_is_prefill_and_decode_until_it_is_observed_and_then_what_was_observed() -> None:
    row = remote(
        "a", performance=Performance(latency_p50_ms=100, tokens_per_second=50, prefill_tokens_per_second=1000)
    )
    made = estimator(row)
    facts = chat(prompt_tokens=1000, output_tokens=100)
    expected = 0.1 + 1000 / 1000 + 100 / 50
    assert made.latency(facts, PoolSnapshot(), 0.0)[0] == pytest.approx(expected)
    for _ in range(60):
        made.observe_first("a", facts, 2.2)
        made.observe_decode("a", facts, 4.0, 100)
    assert made.latency(facts, PoolSnapshot(), 0.0)[0] == pytest.approx(2.2 + 4.0, rel=0.05)


def test_speed_learned_at_one_prompt_size_is_borrowed_at_another_until_seen_there() -> None:
    made = estimator()
    short, long = chat(prompt_tokens=100), chat(prompt_tokens=10_000)
    before = made.first_seconds("a", long)
    assert before is not None
    usual = made.first_seconds("a", short)
    assert usual is not None
    for _ in range(40):
        made.observe_first("a", short, 3 * usual)
    assert made.first_seconds("a", long) == pytest.approx(3 * before, rel=0.1)
    for _ in range(40):
        made.observe_first("a", long, before)
    assert made.first_seconds("a", long) == pytest.approx(before, rel=0.1)
    assert made.first_seconds("a", short) == pytest.approx(3 * usual, rel=0.25)


def test_cost_counts_tokens_or_units_and_unknown_stays_unknown() -> None:
    priced = remote("a", price=Price(input=1, output=2, minute=0.006, character=15, image=0.04, search=2))
    made = estimator(priced, remote("b", price=Price()))
    dollars = made.cost(chat(prompt_tokens=1000, output_tokens=100))
    assert dollars[0] == pytest.approx(1000e-6 + 200e-6)
    assert np.isnan(dollars[1])
    for capability, units, cost in [
        (Capability.TRANSCRIBE, 10.0, 0.06),
        (Capability.SPEAK, 1000.0, 0.015),
        (Capability.IMAGE, 3.0, 0.12),
        (Capability.RERANK, 1.0, 0.002),
    ]:
        assert made.cost(Facts(capability=capability, units=units))[0] == pytest.approx(cost)


def test_the_length_of_answers_is_learned_per_task_within_the_callers_bound() -> None:
    made = estimator()
    for _ in range(200):
        made.observe_output(Task.CHAT, 20)
    assert made.output_tokens(chat()) == pytest.approx(20, rel=0.05)
    assert made.output_tokens(chat(output_tokens=5)) == 5
    assert made.output_tokens(chat(task=Task.CODE)) == 300


def test_one_very_long_answer_makes_no_other_look_long() -> None:
    made = estimator()
    made.observe_output(Task.CHAT, 100_000)
    assert made.output_tokens(chat()) < 350
    for _ in range(60):
        made.observe_output(Task.CHAT, 20_000)
    assert made.output_tokens(chat()) > 15_000, "many of them do"


# ---- what is stored


def test_what_was_exported_is_adopted_whole_and_only_changes_are_exported() -> None:
    made = estimator()
    for _ in range(9):
        made.observe_quality("a", Task.CODE, HARD, 1.0)
        made.observe_first("a", chat(), 9.0)
    made.observe_attempt("a", failed=True, at=50.0)
    made.observe_output(Task.CHAT, 10)
    stored = json.loads(json.dumps(made.export()))
    assert set(stored) == {"a", ":output-tokens"}
    assert made.export() == {}

    fresh = estimator(writer="after a restart")
    fresh.adopt(stored)
    assert believed(fresh, Task.CODE, HARD) == pytest.approx(believed(made, Task.CODE, HARD))
    assert fresh.first_seconds("a", chat()) == made.first_seconds("a", chat())
    assert fresh.reliability(50.0) == pytest.approx(made.reliability(50.0))
    assert fresh.output_tokens(chat()) == made.output_tokens(chat())


@pytest.mark.parametrize(
    "damage",
    [
        {"quality": {"strength": -1}},
        {"quality": {"strength": 1e300}},
        {"quality": {"prior": {"chat": 2}}},
        {"quality": {"cells": [{"task": "chat", "complexity": "simple", "scores": 9, "counts": 1}]}},
        {"quality": {"cells": [{"task": "chat", "complexity": "simple", "counts": float("nan")}]}},
        {"quality": {"cells": [{"task": "dance", "complexity": "simple"}]}},
        {"pace": {"first_logs": [0.0]}},
        {"pace": {"failures": 5, "attempts": 1}},
        {"version": 2},
        {"heard": "everything"},
    ],
)
def test_a_damaged_document_is_passed_over(damage: dict[str, Any]) -> None:
    other = estimator(writer="other")
    other.observe_quality("a", Task.CHAT, SIMPLE, 0.0)
    other.observe_attempt("a", failed=True, at=1.0)
    stored = other.export()["a"]
    for name, value in damage.items():
        stored[name] = {**stored[name], **value} if isinstance(value, dict) else value
    made = estimator()
    made.adopt({"a": stored, "b": "nonsense", ":output-tokens": {"chat": -5, "code": "x"}})
    assert believed(made, Task.CHAT) == pytest.approx(0.6)
    assert made.reliability(None) is None
    assert made.output_tokens(chat()) == 300


def test_two_gateways_that_write_over_each_other_lose_nothing() -> None:
    here, there, alone = estimator(writer="here"), estimator(writer="there"), estimator(writer="alone")
    store: dict[str, Any] = {}
    coins = np.random.default_rng(1).random(40)
    for number, coin in enumerate(coins):
        score = float(coin < 0.7)
        (here if number % 2 else there).observe_quality("a", Task.CHAT, SIMPLE, score)
        alone.observe_quality("a", Task.CHAT, SIMPLE, score)
        if number % 5 == 4:
            store |= here.export()
            store |= there.export()
            here.adopt(store)
            there.adopt(store)
    for _ in range(3):
        for gateway in (here, there):
            store |= gateway.export()
            gateway.adopt(store)
    assert here.observations(Task.CHAT)[0] == pytest.approx(40, rel=0.02)
    assert believed(here, Task.CHAT) == pytest.approx(believed(alone, Task.CHAT), abs=0.005)
    assert believed(there, Task.CHAT) == pytest.approx(believed(here, Task.CHAT))
    assert here.export() == {}
    assert there.export() == {}
