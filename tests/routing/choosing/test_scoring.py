"""Scores: weights of the modes, penalties, preferences, cold start and exploration."""

from __future__ import annotations

import pytest

from backends.workers.pool import PoolSnapshot, WorkerState, WorkerView
from catalog.model import Capability, Performance, Price
from routing.choosing.world import World
from routing.facts import Complexity, Facts, Mode, Task, Workload
from routing.plan import Block, Strategy
from routing.settings import Learning, RoutingSettings, SpeechPolicy
from tests.routing.catalogue import chat, local, remote, world
from tests.routing.choosing.plans import TOOLS, choose, codes, firsts


def test_modes_weigh_quality_seconds_and_dollars_differently() -> None:
    slow = Performance(tokens_per_second=30)
    slow_and_good = remote(
        "best", benchmarks={"overall": 0.95}, price=Price(input=20, output=30), performance=slow
    )
    cheap = remote("cheap", price=Price(input=0.01, output=0.02), performance=Performance(tokens_per_second=60))
    dear = remote("fast", price=Price(input=5, output=9), performance=Performance(tokens_per_second=600))
    here = world([slow_and_good, cheap, dear])
    assert firsts(chat(mode=Mode.BEST, workload=Workload.BATCH), here).most_common(1)[0][0] == "best"
    assert firsts(chat(mode=Mode.CHEAP), here).most_common(1)[0][0] == "cheap"
    assert firsts(chat(prefer_fast=True, mode=Mode.AUTO), here)["best"] == 0


def test_a_difference_of_a_tenth_of_a_second_counts_only_for_a_caller_who_prefers_speed() -> None:
    here = world(
        [
            remote("slower", performance=Performance(latency_p50_ms=180, tokens_per_second=1e6)),
            remote("quicker", performance=Performance(latency_p50_ms=100, tokens_per_second=1e6)),
        ]
    )
    assert firsts(chat(), here) == {"slower": 200}, "the first of equals"
    assert firsts(chat(mode=Mode.FAST), here) == {"quicker": 200}
    assert firsts(chat(prefer_fast=True), here) == {"quicker": 200}
    much = world(
        [
            remote("slower", performance=Performance(latency_p50_ms=900, tokens_per_second=1e6)),
            remote("quicker", performance=Performance(latency_p50_ms=100, tokens_per_second=1e6)),
        ]
    )
    assert firsts(chat(), much) == {"quicker": 200}


def test_an_unknown_price_never_wins_by_cost() -> None:
    here = world([remote("unknown", price=Price()), remote("dear", price=Price(input=10, output=30))])
    assert firsts(chat(mode=Mode.CHEAP), here)["dear"] == 200


def test_a_model_that_must_be_loaded_first_is_slower_by_its_load() -> None:
    loads = Performance(load_seconds=7.0)
    rows = [local("warm", performance=loads), local("cold", performance=loads)]
    ready = WorkerView(model="warm", engine="e", device="cpu", state=WorkerState.READY)
    made = choose(chat(), world(rows, pool=PoolSnapshot(workers=(ready,))))
    latency = {c.model.id: c.latency or 0.0 for c in made.candidates}
    assert latency["cold"] - latency["warm"] == pytest.approx(7.0)


def test_a_queue_before_the_request_counts_as_time() -> None:
    rows = [local("busy"), local("idle")]
    views = (
        WorkerView(model="busy", engine="e", device="cpu", state=WorkerState.READY, slots=1, busy=1, queued=3),
        WorkerView(model="idle", engine="e", device="cpu", state=WorkerState.READY),
    )
    made = choose(chat(), world(rows, pool=PoolSnapshot(workers=views)))
    latency = {c.model.id: c.latency or 0.0 for c in made.candidates}
    assert latency["busy"] == pytest.approx(5 * latency["idle"])


def test_a_failing_model_is_avoided_until_its_failures_fade() -> None:
    rows = [remote("a", benchmarks={"overall": 0.7}), remote("b", benchmarks={"overall": 0.6})]
    here = world(rows, wall=1000.0)
    for _ in range(20):
        here.estimator.observe_attempt("a", failed=True, at=1000.0)
    assert firsts(chat(), here)["b"] > 190
    later = World(index=here.index, estimator=here.estimator, now=0.0, wall=1000.0 + 7200)
    assert firsts(chat(), later)["a"] > 100


# ---- preferences


def test_high_stakes_beats_the_other_preferences_and_does_not_explore() -> None:
    rows = [local("near", benchmarks={"overall": 0.4}), remote("far", benchmarks={"overall": 0.9})]
    careful = chat(high_stakes=True, prefer_local=True, prefer_fast=True)
    assert firsts(careful, world(rows)) == {"far": 200}


def test_prefer_local_tips_a_near_tie_and_no_more() -> None:
    near = local(
        "near", benchmarks={"overall": 0.6}, performance=Performance(tokens_per_second=60, load_seconds=0)
    )
    rows = [near, remote("far", benchmarks={"overall": 0.65}, price=Price(input=0, output=0))]
    assert firsts(chat(prefer_local=True), world(rows))["near"] > 170
    assert firsts(chat(), world(rows))["far"] > 100
    rows[0] = near.model_copy(update={"benchmarks": {"overall": 0.05}})
    rows[1] = rows[1].model_copy(update={"benchmarks": {"overall": 0.95}})
    assert firsts(chat(prefer_local=True), world(rows))["far"] > 180


def test_a_model_preferred_by_the_settings_comes_first_while_it_can_answer() -> None:
    settings = RoutingSettings(preferred={Capability.CHAT: "b"})
    rows = [remote("a", benchmarks={"overall": 0.99}), remote("b", benchmarks={"overall": 0.01})]
    made = choose(chat(), world(rows), settings)
    assert made.candidates[0].model.id == "b"
    assert made.strategy is Strategy.PREFERRED
    blocked = world(rows, blocked={"b": Block("breaker_open", "it fails")})
    assert choose(chat(), blocked, settings).candidates[0].model.id == "a"


def test_a_trusted_remote_goes_first_until_a_local_model_has_proved_itself_at_that_task() -> None:
    rows = [
        local("near", capabilities=TOOLS, benchmarks={"overall": 0.8}),
        remote("far", capabilities=TOOLS, provider="openai", price=Price(input=50, output=90)),
    ]
    here = world(rows)
    asks = chat(task=Task.TOOL_USE, features=frozenset({Capability.TOOLS}))
    before = firsts(asks, here)
    assert 0 < before["near"] < 40  # the share that lets it prove itself
    for _ in range(20):
        here.estimator.observe_quality("near", Task.TOOL_USE, Complexity.SIMPLE, 1.0)
    assert firsts(asks, here)["near"] > 180


def test_cold_start_is_off_for_code_in_the_background_and_without_a_trusted_remote() -> None:
    near = local("near", benchmarks={"overall": 0.8})
    trusted = remote("far", provider="openai", price=Price(input=50, output=90))
    code = chat(task=Task.CODE)
    assert firsts(code, world([near, trusted]))["far"] > 160
    assert firsts(chat(task=Task.CODE, workload=Workload.BACKGROUND), world([near, trusted]))["near"] > 160
    stranger = trusted.model_copy(update={"provider": "stranger"})
    assert firsts(code, world([near, stranger]))["near"] > 160


def test_speech_stays_local_by_preference_and_by_policy() -> None:
    speaks = frozenset({Capability.SPEAK})
    rows = [
        local("near", capabilities=speaks, benchmarks={"overall": 0.2}),
        remote("far", capabilities=speaks, benchmarks={"overall": 0.99}, price=Price(character=15)),
    ]
    asks = Facts(capability=Capability.SPEAK, task=Task.SPEECH, units=200)
    made = choose(asks, world(rows))
    assert [c.model.id for c in made.candidates] == ["near", "far"]
    strict = RoutingSettings(speech=SpeechPolicy(allow_remote=False))
    assert codes(choose(asks, world(rows), strict)) == {"far": "speech_policy"}
    named = RoutingSettings(speech=SpeechPolicy(preferred=("far",)))
    assert choose(asks, world(rows), named).candidates[0].model.id == "far"


# ---- exploration


def test_what_was_learned_at_one_task_moves_the_choice_there_and_not_elsewhere() -> None:
    rows = [remote("a", benchmarks={"overall": 0.7}), remote("b", benchmarks={"overall": 0.6})]
    here = world(rows)
    for _ in range(40):
        here.estimator.observe_quality("a", Task.CODE, Complexity.SIMPLE, 0.0)
        here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, 0.9)
    assert firsts(chat(task=Task.CODE), here)["b"] > 190
    assert firsts(chat(task=Task.CHAT), here)["a"] > 140


def test_a_little_known_model_is_explored_beside_a_well_known_one_that_is_hardly_better() -> None:
    here = world([remote("a", benchmarks={"overall": 0.62}), remote("b", benchmarks={"overall": 0.6})])
    assert firsts(chat(), here) == {"a": 200}, "as little known, and better"
    for number in range(400):
        here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, float(number % 4 < 3))
    made = [choose(chat(), here, seed=seed) for seed in range(100)]
    by = {name: {m.strategy for m in made if m.candidates[0].model.id == name} for name in "ab"}
    assert by == {"a": {Strategy.PROFILE}, "b": {Strategy.EXPLORATION}}


def test_a_model_far_behind_is_not_explored_however_little_known() -> None:
    here = world([remote("a", benchmarks={"overall": 0.9}), remote("b", benchmarks={"overall": 0.2})])
    for _ in range(100):
        here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, 0.9)
    assert firsts(chat(), here)["b"] == 0


def test_without_optimism_the_best_expected_is_always_chosen() -> None:
    here = world([remote("a", benchmarks={"overall": 0.62}), remote("b", benchmarks={"overall": 0.6})])
    for number in range(400):
        here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, float(number % 10 < 7))
    rules = RoutingSettings(learning=Learning(optimism=0.0))
    assert firsts(chat(), here, rules) == {"a": 200}
